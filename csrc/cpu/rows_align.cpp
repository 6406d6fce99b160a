// The alignment loss between its two matrix products: one row at a time, while the row is in cache.
#include "math.h"

namespace mmcl { namespace MMCL_ISA {

template <typename T>
static void chunk_row(const AlignChunk& a, int64_t i) {
  T* x = static_cast<T*>(a.x) + i * a.ldx;
  const float* inv = a.inv_t;
  const int64_t n = a.cols, label = a.labels[i] - a.first;
  const float scale = a.scale * a.inv_z[i];
  const bool mine = label >= 0 && label < n;
  if (mine) a.label_logit[i] = scale * load(x, label) * inv[label];
  float top = a.row_max[i];
  if (!a.fixed_max) {
    float high = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : high)
    for (int64_t j = 0; j < n; ++j) {
      const float v = load(x, j) * inv[j];
      high = high < v ? v : high;
    }
    const float before = a.start ? -std::numeric_limits<float>::infinity() : top;
    top = before < scale * high ? scale * high : before;
    a.row_fix[i] = a.start ? 0.0f : fast_exp(before - top);
    a.row_max[i] = top;
  }
  const float masked = mine ? load(x, label) : 0.0f;
  if (mine) store(x, label, -3e38f);  // its exponential is 0; the label's share is added exactly in the finish
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) {
    const float e = fast_exp(scale * (load(x, j) * inv[j]) - top);
    sum += e;
    store(x, j, e * inv[j]);
  }
  if (mine && masked != masked) sum = masked;  // a NaN in the label's column must not be lost
  a.row_sum[i] = a.start ? sum : (a.fixed_max ? a.row_sum[i] : a.row_sum[i] * a.row_fix[i]) + sum;
}

int align_chunk(const AlignChunk& a) {
  if (a.dtype != kFloat32 && a.dtype != kBFloat16) return kBadDtype;
#pragma omp parallel for schedule(static) num_threads(a.threads) if (a.threads > 1)
  for (int64_t i = 0; i < a.rows; ++i) a.dtype == kFloat32 ? chunk_row<float>(a, i) : chunk_row<bf16>(a, i);
  return 0;
}

template <typename T>
static void finish_row(const AlignFinish& a, int64_t i) {
  const int64_t n = a.width, y = a.labels[i];
  T* dz = a.dz ? static_cast<T*>(a.dz) + i * a.lddz : nullptr;
  if (y == a.ignore) {
    a.loss[i] = a.dscale[i] = a.ratio[i] = a.label_coef[i] = 0.0f;
    for (int64_t j = 0; dz && j < n; ++j) store(dz, j, 0.0f);
    return;
  }
  const T* z = static_cast<const T*>(a.z) + i * a.ldz;
  const float inv_z = a.inv_z[i];
  const T* t = static_cast<const T*>(a.text) + y * a.ldt;
  const float* o = a.o + i * a.ldo;
  const float others = a.row_sum[i], gap = a.row_max[i] - a.label_logit[i];
  const float d = std::log(others) + gap;  // log of (1 - p_y) / p_y
  const float q = d > 0 ? 1.0f / (1.0f + std::exp(-d)) : std::exp(d) / (1.0f + std::exp(d));
  const float ratio = others > 0 ? q / others : (others != others ? others : 0.0f);
  const float label_coef = (a.smoothing - q) * a.inv_t[y];
  float loss = d > 0 ? d + std::log1p(std::exp(-d)) : std::log1p(std::exp(d));
  float along = 0.0f, mean_cos = 0.0f;  // along = g . z / |z|, g = d loss / d (scale z / |z|)
  if (a.mean_text) {
    const float* mean = a.mean_text;
    const float eps = a.smoothing;
#pragma omp simd reduction(+ : along, mean_cos)
    for (int64_t j = 0; j < n; ++j) {
      const float zj = load(z, j) * inv_z;
      mean_cos += mean[j] * zj;
      along += (o[j] * ratio + label_coef * load(t, j) - eps * mean[j]) * zj;
    }
    loss += eps * (a.label_logit[i] - a.scale * mean_cos);
  } else {
#pragma omp simd reduction(+ : along)
    for (int64_t j = 0; j < n; ++j) along += (o[j] * ratio + label_coef * load(t, j)) * (load(z, j) * inv_z);
  }
  a.loss[i] = loss;
  a.dscale[i] = along;
  a.ratio[i] = ratio;
  a.label_coef[i] = a.smoothing - q;
  if (!dz) return;
  const float pull = a.scale * inv_z, back = along * inv_z;
  if (a.mean_text) {
    const float* mean = a.mean_text;
    const float eps = a.smoothing;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j)
      store(dz, j, pull * (o[j] * ratio + label_coef * load(t, j) - eps * mean[j] - back * load(z, j)));
  } else {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j)
      store(dz, j, pull * (o[j] * ratio + label_coef * load(t, j) - back * load(z, j)));
  }
}

int align_finish(const AlignFinish& a) {
  if (a.dtype != kFloat32 && a.dtype != kBFloat16) return kBadDtype;
#pragma omp parallel for schedule(static) num_threads(a.threads) if (a.threads > 1)
  for (int64_t i = 0; i < a.rows; ++i) a.dtype == kFloat32 ? finish_row<float>(a, i) : finish_row<bf16>(a, i);
  return 0;
}

template <typename T>
static void norm_row(const RowNorm& a, int64_t i) {
  const T* x = static_cast<const T*>(a.x) + i * a.ldx;
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < a.width; ++j) sum += load(x, j) * load(x, j);
  const float length = std::sqrt(sum), inv = 1.0f / (length < kEps ? kEps : length);
  a.inv[i] = inv;
  if (!a.unit) return;
  T* unit = static_cast<T*>(a.unit) + i * a.ldu;
#pragma omp simd
  for (int64_t j = 0; j < a.width; ++j) store(unit, j, load(x, j) * inv);
}

int row_norm(const RowNorm& a) {
  if (a.dtype != kFloat32 && a.dtype != kBFloat16) return kBadDtype;
#pragma omp parallel for schedule(static) num_threads(a.threads) if (a.threads > 1)
  for (int64_t i = 0; i < a.rows; ++i) a.dtype == kFloat32 ? norm_row<float>(a, i) : norm_row<bf16>(a, i);
  return 0;
}

} }  // namespace mmcl::MMCL_ISA
