// One declaration per CUDA launcher. Each returns cudaGetLastError(); nothing allocates or synchronises.
// dtype: 0 float32, 1 bfloat16, 2 float16. scale_at: a 0-d float32 on the device, or null for the value `scale`.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace mmcl { namespace cuda {

// inv = 1 / max(|x|, 1e-12) per row
struct Norm { const void* x; int64_t ldx; float* inv; int64_t rows, width; int dtype; };
// one chunk of logits in place, as mmcl::AlignChunk on the CPU
struct ExpRows {
  void* x; int64_t ldx, rows, cols; const int64_t* labels; int64_t first; const float *inv_z, *inv_t, *scale_at;
  float scale; bool start; float *row_max, *row_sum, *row_fix, *label_logit; int dtype;
};
// o [splits, rows, width], row_max and row_sum [splits, rows]; mean_text, dz, ratio and label_coef may be null.
// dz is float32 for float16: a later loss scale must still find small gradients.
struct Finish {
  const float* o; const void* z; int64_t ldz; const void* text; int64_t ldt; const float* mean_text;
  const int64_t* labels; const float *inv_z, *inv_t, *scale_at; float scale; const float *row_max, *row_sum,
  *label_logit; float* loss; void* dz; float *dscale, *ratio, *label_coef; int64_t rows, classes, width, ignore;
  float smoothing; int splits, dtype;
};
// Hopper only: partial sums of all splits of per_split classes, for finish. bfloat16 or float16, width a multiple of 8
// up to 512, rows of z and text at multiples of 16 bytes.
struct OnePass {
  const void* z; int64_t ldz; const void* text; int64_t ldt; const int64_t* labels; const float *inv_z, *inv_t,
  *scale_at; float scale; float *o, *row_max, *row_sum, *label_logit; int64_t rows, classes, width, per_split; int dtype;
};
// e = normalize(z + s), scaled h, projection and gate gradient, as on the CPU
struct GateRows { const void *h, *gate; int64_t ldg; void* out; int64_t rows, groups, rank; int dtype; };
struct AddNorm { const void* z; int64_t ldz; const void* s; void* e; float* inv; int64_t rows, width; int dtype; };
struct Project { const void* de; int64_t ldde; const void* e; const float* inv; void* dv; int64_t rows, width;
                 int dtype; };
struct GateBack { void* d; const void *h, *gate; int64_t ldg; void *scaled, *dgate; int64_t rows, groups, rank;
                  int dtype; };

int row_norm(const Norm&, cudaStream_t);
int exp_rows(const ExpRows&, cudaStream_t);
int finish(const Finish&, cudaStream_t);
int one_pass(const OnePass&, cudaStream_t);
int gate_rows(const GateRows&, cudaStream_t);
int add_norm(const AddNorm&, cudaStream_t);
int project(const Project&, cudaStream_t);
int gate_back(const GateBack&, cudaStream_t);

} }  // namespace mmcl::cuda
