// The softmax of attention, one row of scores at a time, in place:
//
//     p = exp(s x - max) / sum exp(s x - max),   dx = s p (dp - sum_j p_j dp_j)
#include "math.h"

namespace mmcl { namespace MMCL_ISA {

constexpr int64_t kLanes = 16;

// A row is copied to padded vectors first: rows are short, and a tail of single numbers would take most of the time.
template <typename T>
static void softmax_row(const SoftmaxRows& a, int64_t i) {
  constexpr float kHidden = -std::numeric_limits<float>::infinity();
  T* x = static_cast<T*>(a.x) + i * a.cols;
  const uint8_t* mask = a.mask ? a.mask + i / a.rows_per_mask * a.cols : nullptr;
  const int64_t seen = a.causal < 0 ? a.cols : a.causal + i % a.length + 1;
  const int64_t padded = (seen + kLanes - 1) / kLanes * kLanes;
  float e[kRow];
  for (int64_t j = 0; j < seen; ++j) e[j] = load(x, j);
  for (int64_t j = 0; mask && j < seen; ++j) e[j] = mask[j] ? e[j] : kHidden;
  for (int64_t j = seen; j < padded; ++j) e[j] = kHidden;
  float top = kHidden, sum = 0.0f;
#pragma omp simd reduction(max : top)
  for (int64_t j = 0; j < padded; ++j) top = e[j] > top ? e[j] : top;
  if (top == kHidden) top = 0.0f;  // -inf - -inf would be NaN; a row that sees nothing becomes 0
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < padded; ++j) sum += e[j] = fast_exp(a.scale * (e[j] - top));
  const float inv = sum > 0.0f ? 1.0f / sum : 0.0f;
#pragma omp simd
  for (int64_t j = 0; j < padded; ++j) e[j] *= inv;
  for (int64_t j = 0; j < seen; ++j) store(x, j, e[j]);
  for (int64_t j = seen; j < a.cols; ++j) store(x, j, 0.0f);
}

template <typename T>
static void softmax_back_row(const SoftmaxBack& a, int64_t i) {
  const T* p = static_cast<const T*>(a.p) + i * a.ldp;
  T* d = static_cast<T*>(a.d) + i * a.cols;
  float row_sum = 0.0f;
  if (a.row_sums) {
    row_sum = a.row_sums[i];
  } else {
#pragma omp simd reduction(+ : row_sum)
    for (int64_t j = 0; j < a.cols; ++j) row_sum += load(p, j) * load(d, j);
  }
#pragma omp simd
  for (int64_t j = 0; j < a.cols; ++j) store(d, j, a.scale * load(p, j) * (load(d, j) - row_sum));
}

int softmax_rows(const SoftmaxRows& a) {
  if (a.dtype != kFloat32 && a.dtype != kBFloat16) return kBadDtype;
  if (a.cols > kRow) return kTooWide;
#pragma omp parallel for schedule(static) num_threads(a.threads) if (a.threads > 1)
  for (int64_t i = 0; i < a.rows; ++i) a.dtype == kFloat32 ? softmax_row<float>(a, i) : softmax_row<bf16>(a, i);
  return 0;
}

int softmax_back(const SoftmaxBack& a) {
  if (a.dtype != kFloat32 && a.dtype != kBFloat16) return kBadDtype;
#pragma omp parallel for schedule(static) num_threads(a.threads) if (a.threads > 1)
  for (int64_t i = 0; i < a.rows; ++i)
    a.dtype == kFloat32 ? softmax_back_row<float>(a, i) : softmax_back_row<bf16>(a, i);
  return 0;
}

} }  // namespace mmcl::MMCL_ISA
