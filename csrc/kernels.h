// The CPU kernels of mmcl_fast's operations. Each takes pointers and sizes, and returns 0 or an error code of
// cpu/math.h. No torch headers: one build serves every torch version.
//
// Matrices are row-major with unit column stride. A field ld* is the distance between rows, in elements.
#pragma once
#include <cstdint>

namespace mmcl {

enum Dtype : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };
enum Reduction : int { kNone = 0, kSum = 1, kMean = 2 };

// One chunk of classes of the alignment loss: x_ij <- exp(scale cos_ij - row_max_i) / |t_j|, 0 in the label's column.
struct AlignChunk {
  void* x;  // (rows, cols) in: z_i . t_j
  int64_t ldx, rows, cols;
  const float *inv_z, *inv_t;  // (rows) 1 / |z_i|; (cols) 1 / |t_j|
  const int64_t* labels;       // (rows)
  int64_t first;               // the class of column 0
  float scale;
  bool fixed_max;       // row_max already holds a bound of the logits: the scale, because |cos| <= 1
  bool start;           // the first chunk: there are no sums yet
  float* row_max;       // (rows) maximum over the chunks so far, without the label's class
  float* row_sum;       // (rows) sum of the exponentials, without the label's class
  float* row_fix;       // (rows) factor of the sums of earlier chunks; written unless fixed_max
  float* label_logit;   // (rows) scale cos(z_i, t_label), written by the chunk that holds the label
  float* others_cos;    // (rows) sum of exponentials times cosines, for a single chunk; or null
  int dtype, threads;
};

// After the last chunk: loss_i = log(1 + row_sum_i exp(row_max_i - label_logit_i)) and its gradients.
struct AlignFinish {
  const float* o;          // (rows, width) sum_{j != label} exp(x_j - row_max) t_j / |t_j|
  const void *z, *text;    // (rows, width), (classes, width)
  void* dz;                // (rows, width) d loss_i / d z_i; may be o; null: not wanted
  int64_t ldo, ldz, ldt, lddz, rows, width;
  const float *inv_z, *inv_t;  // (rows), (classes)
  const float* mean_text;  // (width) mean of the unit class texts; null without smoothing
  const int64_t* labels;   // (rows)
  int64_t ignore;          // the label of rows without a loss
  float scale, smoothing;
  const float *row_max, *row_sum, *label_logit;
  const float* others_cos;  // null: dscale is summed over the width
  const float* gain;        // (rows) factor of dz, or null
  float *loss, *dscale;     // (rows) loss_i, d loss_i / d scale
  float* ratio;             // (rows) q / row_sum with q = 1 - p_label: turns exponentials into probabilities
  float* label_coef;        // (rows) smoothing - q
  int dtype, threads;
};

// The whole loss in float32, matrix products included: loss = norm sum_i weights_i ce_i, or weights_i ce_i for kNone.
// It returns an error for a label out of range, and for a weight that is negative or NaN.
struct AlignRows {
  const float *z, *text, *weight;  // (rows, width), (classes, width), (rows) or null
  const int64_t* labels;           // (rows)
  float* loss;                     // 1 number, or (rows) for kNone
  float* ce;                       // (rows) as AlignFinish's loss
  float* weights;                  // (rows) 0 for ignored rows, else weight or 1
  float* norm;                     // for kMean 1 / sum_i weights_i, 0 if the sum is 0; else 1
  float* dz;                       // (rows, width) d ce_i / d z_i, or d loss / d z_i if folded; null: not wanted
  float* dscale;                   // (rows) d ce_i / d scale
  int64_t ldz, ldt, rows, classes, width, ignore;
  float scale, smoothing;
  float fixed_up_to;  // a scale of at most this needs no running maximum
  int reduction;
  bool folded;
  int threads;
};

// inv = 1 / max(|x|, 1e-12) and unit = x inv; unit may be null: not wanted.
struct RowNorm { const void* x; void* unit; float* inv; int64_t ldx, ldu, rows, width; int dtype, threads; };

// realign forward: out[i, g rank + k] = h[i, g rank + k] gate[i, g]
struct GateRows { const void *h, *gate; void* out; int64_t ldh, ldg, ldo, rows, groups, rank; int dtype, threads; };
// realign forward: e = (z + s) inv, inv = 1 / max(|z + s|, 1e-12)
struct AddNorm { const void *z, *s; void* e; float* inv; int64_t ldz, lds, lde, rows, width; int dtype, threads; };
// realign backward: dv = inv (de - (de . e) e)
struct Project { const void *de, *e; const float* inv; void* dv; int64_t ldde, lde, lddv, rows, width;
                 int dtype, threads; };
// realign backward: dgate[i, g] = sum_k d[i, g rank + k] h[i, g rank + k], scaled = h gate, d <- d gate in place.
// A null scaled is not wanted.
struct GateBack { void *d; const void *h, *gate; void *scaled, *dgate; int64_t ldd, ldh, ldg, lds, lddg, rows, groups,
                  rank; int dtype, threads; };

// The whole forward of realign in float32: h = u down, e = normalize(z + (h gate) up).
struct RealignForward {
  const float *u, *z, *gate;  // (rows, from) source, (rows, width), (rows, groups)
  const float *down, *up;     // (from, groups rank), (groups rank, width)
  float *e, *inv, *h;         // (rows, width), (rows) 1 / |v|, (rows, groups rank)
  int64_t ldu, ldz, ldg, rows, width, from, groups, rank;
  int threads;
};
// The gradients of RealignForward; a null one is not computed.
struct RealignBack {
  const float *de, *e, *inv, *h, *u, *gate, *down, *up;
  float *dz, *dgate, *ddown, *dup, *du;
  int64_t ldde, ldu, ldg, rows, width, from, groups, rank;
  bool adds;  // the source is z, and du = dz holds both shares
  int threads;
};

constexpr int64_t kRow = 4096;  // the most columns of SoftmaxRows: a row lies on the stack
// Attention: x <- softmax(scale x), in place.
struct SoftmaxRows {
  void* x;              // (rows, cols) scores; rows are (batch, heads, length)
  const uint8_t* mask;  // (batch, cols) 0 hides a column; null: nothing is hidden
  int64_t rows, cols, rows_per_mask, length;
  int64_t causal;       // -1, or how many columns a row sees before its own place
  float scale;
  int dtype, threads;
};
// Attention backward: d <- scale p (d - row_sums), in place.
struct SoftmaxBack {
  const void* p;          // (rows, cols) probabilities
  void* d;                // (rows, cols) in: d loss / d p
  const float* row_sums;  // (rows) sum_j p_j d_j; null: the kernel sums
  int64_t ldp, rows, cols;
  float scale;
  int dtype, threads;
};

const char* cpu_isa();
int align_chunk(const AlignChunk&);
int align_finish(const AlignFinish&);
int align_rows(const AlignRows&);
int row_norm(const RowNorm&);
int gate_rows(const GateRows&);
int add_norm(const AddNorm&);
int project(const Project&);
int gate_back(const GateBack&);
int realign_forward(const RealignForward&);
int realign_back(const RealignBack&);
int softmax_rows(const SoftmaxRows&);
int softmax_back(const SoftmaxBack&);

}  // namespace mmcl
