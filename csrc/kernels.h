// Every kernel of mmcl_fast: pointers, sizes and (CUDA) a stream in, an error code out. No torch headers.
// Matrices are row-major with unit column stride; ld* is the distance between rows in elements.
#pragma once
#include <cstdint>

namespace mmcl {

enum Dtype : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// One chunk of the alignment loss on the CPU, in place.
//   x      [rows, cols] in: z_i . t_j; out: exp(scale cos_ij - row_max_i) / |t_j|, 0 in the label's column
//   inv_z  [rows] 1 / |z_i|;  inv_t [cols] 1 / |t_j|;  labels [rows] classes;  first: the class of column 0
//   row_max, row_sum    [rows] running maximum, and sum of the exponentials of all classes but the label's
//   row_fix             [rows] what sums of earlier chunks must be multiplied by (written unless fixed_max)
//   label_logit         [rows] scale cos(z_i, t_label), written by the chunk that holds the label
// fixed_max: row_max already holds an upper bound of the logits (scale itself, since |cos| <= 1).
struct AlignChunk {
  void* x; int64_t ldx, rows, cols;
  const float *inv_z, *inv_t; const int64_t* labels; int64_t first;
  float scale; bool fixed_max, start;
  float *row_max, *row_sum, *row_fix, *label_logit;
  float* others_cos;  // null, or [rows] sum of exponentials times cosines, of a single chunk
  int dtype, threads;
};

// After the last chunk: o [rows, D] = sum_{j != label} exp(..) t_j / |t_j|. Per row: the loss, d loss / d z in dz,
// d loss / d scale, and q / row_sum with q = 1 - p_label (what turns exponentials into probabilities). dz may be o.
struct AlignFinish {
  const float* o; const void *z, *text; void* dz; int64_t ldo, ldz, ldt, lddz, rows, width;
  const float *inv_z, *inv_t, *mean_text;  // mean_text [D] unit-length class texts averaged, or null
  const int64_t* labels; int64_t ignore;
  float scale, smoothing;
  const float *row_max, *row_sum, *label_logit;
  const float* others_cos;  // null: dscale is summed over the width
  const float* gain;        // null, or [rows] what dz is multiplied by
  float *loss, *dscale, *ratio, *label_coef;
  int dtype, threads;
};

// The loss in float32, products and all: z [rows, width], text [classes, width], weight [rows] or null. weights: 0 for
// ignored rows, else weight or 1; norm: 1 / sum of weights, or 0, where mean, else 1; loss: ce weights [rows] where
// none, else their sum times norm; ce and dscale [rows] as AlignFinish gives them; dz [rows, width] (null: not wanted)
// too, or times weights norm where folded. A scale of at most fixed_up_to needs no running maximum. Errors: a label or
// a weight that cannot be.
enum Reduction : int { kNone = 0, kSum = 1, kMean = 2 };
struct AlignRows {
  const float *z, *text, *weight; const int64_t* labels; float *loss, *ce, *weights, *norm, *dz, *dscale;
  int64_t ldz, ldt, rows, classes, width, ignore; float scale, smoothing, fixed_up_to; int reduction; bool folded;
  int threads;
};

// unit = x / max(|x|, 1e-12) (skipped when null), inv = 1 / max(|x|, 1e-12)
struct RowNorm { const void* x; void* unit; float* inv; int64_t ldx, ldu, rows, width; int dtype, threads; };

// realign: out[i, g r + k] = h[i, g r + k] gate[i, g]
struct GateRows { const void *h, *gate; void* out; int64_t ldh, ldg, ldo, rows, groups, rank; int dtype, threads; };
// realign: e = normalize(z + s), inv = 1 / max(|z + s|, 1e-12)
struct AddNorm { const void *z, *s; void* e; float* inv; int64_t ldz, lds, lde, rows, width; int dtype, threads; };
// realign backward: dv = inv (de - (de . e) e)
struct Project { const void *de, *e; const float* inv; void* dv; int64_t ldde, lde, lddv, rows, width;
                 int dtype, threads; };
// realign backward: dgate = sum_k d h; scaled = h gate; d <- d gate, in place
struct GateBack { void *d; const void *h, *gate; void *scaled, *dgate; int64_t ldd, ldh, ldg, lds, lddg, rows, groups,
                  rank; int dtype, threads; };

// realign in float32, products and all. u [rows, from] source, down [from, groups rank], up [groups rank, width];
// e [rows, width], inv [rows], h [rows, groups rank] = u down.
struct RealignForward { const float *u, *z, *gate, *down, *up; float *e, *inv, *h;
                        int64_t ldu, ldz, ldg, rows, width, from, groups, rank; int threads; };
// Its gradients; a null one is not computed. adds: source is z, and du = dz holds both shares.
struct RealignBack { const float *de, *e, *inv, *h, *u, *gate, *down, *up; float *dz, *dgate, *ddown, *dup, *du;
                     int64_t ldde, ldu, ldg, rows, width, from, groups, rank; bool adds; int threads; };

// attention: x [rows, cols] scores in, softmax(scale x) out; rows are [batch, heads, length].
//   mask [batch, cols] bytes, 0 hides a column, or null; causal: -1, or the columns seen before a row's own place
// cols <= kRow.
constexpr int64_t kRow = 4096;
struct SoftmaxRows { void* x; const uint8_t* mask; int64_t rows, cols, rows_per_mask, length, causal; float scale;
                     int dtype, threads; };
// d <- scale p (d - along), in place; along [rows] = sum_j p_j d_j, or null: summed here
struct SoftmaxBack { const void* p; void* d; const float* along; int64_t ldp, rows, cols; float scale;
                     int dtype, threads; };

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
