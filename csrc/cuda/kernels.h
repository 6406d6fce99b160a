// The CUDA launchers. Each returns cudaGetLastError(); none allocates memory or waits for the device.
// dtype: 0 float32, 1 bfloat16, 2 float16. Matrices are row-major; ld* is the distance between rows, in elements.
// scale_at: a 0-d float32 on the device, or null for the value `scale`.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace mmcl { namespace cuda {

// inv = 1 / max(|x|, 1e-12) for each row
struct Norm { const void* x; int64_t ldx; float* inv; int64_t rows, width; int dtype; };

// One chunk of classes, in place: x_ij <- exp(scale cos_ij - row_max_i) / |t_j|, 0 in the label's column.
struct ExpRows {
  void* x;  // (rows, cols) in: z_i . t_j
  int64_t ldx, rows, cols;
  const int64_t* labels;       // (rows)
  int64_t first;               // the class of column 0
  const float *inv_z, *inv_t;  // (rows) 1 / |z_i|; (cols) 1 / |t_j|
  const float* scale_at;
  float scale;
  bool start;                  // the first chunk: there are no sums yet
  float *row_max, *row_sum;    // (rows) over the chunks so far, without the label's class
  float* row_fix;              // (rows) factor of the sums of earlier chunks
  float* label_logit;          // (rows)
  int dtype;
};

// loss_i = log(1 + sum_{c != y} exp(x_c - x_y)) and its gradients, from the sums of all splits of the classes.
// A label out of range gives NaN.
struct Finish {
  const float* o;  // (splits, rows, width) sum_{c != y} exp(x_c - row_max) t_c / |t_c|
  const void* z;   // (rows, width)
  int64_t ldz;
  const void* text;  // (classes, width)
  int64_t ldt;
  const float* mean_text;  // (width) mean of the unit texts; null without smoothing
  const int64_t* labels;
  const float *inv_z, *inv_t, *scale_at;
  float scale;
  const float *row_max, *row_sum;  // (splits, rows); o and row_max are not read where row_sum is 0
  const float* label_logit;        // (rows)
  float* loss;                     // (rows)
  void* dz;                        // (rows, width), or null; float32 for float16, for a later loss scale
  float* dscale;                   // (rows)
  float *ratio, *label_coef;       // (rows) q / row_sum and smoothing - q with q = 1 - p_label; or null
  int64_t rows, classes, width, ignore;
  float smoothing;
  int splits, dtype;
};

// For Hopper: the sums that Finish reads. A cluster has row_blocks (1 or 2) blocks of 64 rows. Above a width of 512 each
// has two parts. Clusters take equal shares of the tiles of 64 classes, of all groups of 64 row_blocks rows in turn. The
// n-th cluster of a group fills the slot n. The caller fills row_sum with zeros, which mark slots without a cluster.
// The dtype is bfloat16 or float16. The width is a multiple of 8 up to 1024. Rows of z and text begin at multiples of 16
// bytes.
struct OnePass {
  const void* z;
  int64_t ldz;
  const void* text;
  int64_t ldt;
  const int64_t* labels;
  const float *inv_z, *inv_t, *scale_at;
  float scale;
  float *o, *row_max, *row_sum;  // (slots, rows, width), (slots, rows), (slots, rows)
  float* label_logit;            // (rows)
  int64_t rows, classes, width, tiles_per_cluster;
  int row_blocks, dtype;
};

// realign forward: out[i, g rank + k] = h[i, g rank + k] gate[i, g]
struct GateRows { const void *h, *gate; int64_t ldg; void* out; int64_t rows, groups, rank; int dtype; };
// realign forward: e = (z + s) inv, inv = 1 / max(|z + s|, 1e-12)
struct AddNorm { const void* z; int64_t ldz; const void* s; void* e; float* inv; int64_t rows, width; int dtype; };
// realign backward: dv = inv (de - (de . e) e)
struct Project { const void* de; int64_t ldde; const void* e; const float* inv; void* dv; int64_t rows, width;
                 int dtype; };
// realign backward: dgate[i, g] = sum_k d[i, g rank + k] h[i, g rank + k], scaled = h gate, d <- d gate in place
struct GateBack { void* d; const void *h, *gate; int64_t ldg; void *scaled, *dgate; int64_t rows, groups, rank;
                  int dtype; };

int row_norm(const Norm&, cudaStream_t);
int exp_rows(const ExpRows&, cudaStream_t);
int finish(const Finish&, cudaStream_t);
int one_pass(const OnePass&, cudaStream_t);
// How many clusters of one_pass the current device runs at once, or minus the error code.
int one_pass_clusters(int64_t width, int row_blocks, int dtype);
int gate_rows(const GateRows&, cudaStream_t);
int add_norm(const AddNorm&, cudaStream_t);
int project(const Project&, cudaStream_t);
int gate_back(const GateBack&, cudaStream_t);

} }  // namespace mmcl::cuda
