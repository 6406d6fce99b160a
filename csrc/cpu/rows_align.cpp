// The alignment loss: CE = log(1 + sum_{c != y} exp(x_c - x_y)) with x_c = s cos(z, t_c), and its gradients.
//
// The row kernels work between library matrix products, on one row while it is in the cache. The whole loss in float32,
// align_rows, takes blocks of rows whose logits never leave the cache.
#include "math.h"
#include "products.h"

namespace mmcl { namespace MMCL_ISA {

template <typename T>
static void chunk_row(const AlignChunk& a, int64_t i) {
  T* x = static_cast<T*>(a.x) + i * a.ldx;
  const float* inv = a.inv_t;
  const int64_t n = a.cols, label = a.labels[i] - a.first;
  const float scale = a.scale * a.inv_z[i];
  const bool has_label = label >= 0 && label < n;
  if (has_label) a.label_logit[i] = scale * load(x, label) * inv[label];
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
  const float masked = has_label ? load(x, label) : 0.0f;
  if (has_label) store(x, label, -3e38f);  // its exponential is 0; align_finish adds the label's share exactly
  float sum = 0.0f, dot = 0.0f;
#pragma omp simd reduction(+ : sum, dot)
  for (int64_t j = 0; j < n; ++j) {
    const float cosine = load(x, j) * inv[j], e = fast_exp(scale * cosine - top);
    sum += e;
    dot += e == 0.0f ? 0.0f : e * cosine;
    store(x, j, e * inv[j]);
  }
  if (a.others_cos) a.others_cos[i] = dot * a.inv_z[i];
  if (has_label && masked != masked) sum = masked;  // a NaN in the label's column must not be lost
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
  const float d = std::log(others) + gap;  // log((1 - p_y) / p_y): no rounding of 1 - p_y for a confident row
  const float q = d > 0 ? 1.0f / (1.0f + std::exp(-d)) : std::exp(d) / (1.0f + std::exp(d));
  const float ratio = others > 0 ? q / others : (others != others ? others : 0.0f);
  const float label_coef = (a.smoothing - q) * a.inv_t[y];
  float loss = d > 0 ? d + std::log1p(std::exp(-d)) : std::log1p(std::exp(d));
  float radial = 0.0f, mean_cos = 0.0f;  // radial = g . z / |z|, g = d loss / d (scale z / |z|)
  if (a.mean_text) {
    const float* mean = a.mean_text;
    const float eps = a.smoothing;
#pragma omp simd reduction(+ : radial, mean_cos)
    for (int64_t j = 0; j < n; ++j) {
      const float zj = load(z, j) * inv_z;
      mean_cos += mean[j] * zj;
      radial += (o[j] * ratio + label_coef * load(t, j) - eps * mean[j]) * zj;
    }
    loss += eps * (a.label_logit[i] - a.scale * mean_cos);
  } else if (a.others_cos) {
    radial = a.others_cos[i] * ratio + (a.smoothing - q) * a.label_logit[i] / a.scale;
  } else {
#pragma omp simd reduction(+ : radial)
    for (int64_t j = 0; j < n; ++j) radial += (o[j] * ratio + label_coef * load(t, j)) * (load(z, j) * inv_z);
  }
  a.loss[i] = loss;
  a.dscale[i] = radial;
  a.ratio[i] = ratio;
  a.label_coef[i] = a.smoothing - q;
  if (!dz) return;
  const float row_scale = a.scale * inv_z * (a.gain ? a.gain[i] : 1.0f), radial_scale = radial * inv_z;
  if (a.mean_text) {
    const float* mean = a.mean_text;
    const float eps = a.smoothing;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j)
      store(dz, j, row_scale * (o[j] * ratio + label_coef * load(t, j) - eps * mean[j] - radial_scale * load(z, j)));
  } else {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j)
      store(dz, j, row_scale * (o[j] * ratio + label_coef * load(t, j) - radial_scale * load(z, j)));
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

// The texts are packed twice: as right side of z t' and of x t. Each worker takes blocks of rows.
int align_rows(const AlignRows& a) {
  const int64_t c = a.classes, d = a.width, wide = round_up(c, kW);
  double total = 0.0;
  for (int64_t i = 0; i < a.rows; ++i) {
    const bool seen = a.labels[i] != a.ignore;
    if (seen && (a.labels[i] < 0 || a.labels[i] >= c)) return kBadLabel;
    if (a.weight && !(a.weight[i] >= 0.0f)) return kBadWeight;
    total += a.weights[i] = !seen ? 0.0f : a.weight ? a.weight[i] : 1.0f;
  }
  const float norm = a.reduction != kMean ? 1.0f : total > 0 ? float(1.0 / total) : 0.0f;
  const int64_t block = std::min<int64_t>(64, round_up((a.rows + 2 * a.threads - 1) / (2 * a.threads), kTall));
  const int64_t per_worker = round_up(block * (wide + (a.dz ? 0 : d) + 7), kW);
  Buffer keys(packed_size(d, c)), values(packed_size(c, d)), inv_t(c), mean(d), work(a.threads * per_worker);
  Buffer gain(a.folded ? a.rows : 0);
  for (int64_t i = 0; a.folded && i < a.rows; ++i) gain.at[i] = a.weights[i] * norm;
  const bool fixed = a.scale <= a.fixed_up_to;
  const RowNorm texts{a.text, nullptr, inv_t.at, a.ldt, 0, c, d, kFloat32, 1};
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    const int worker = thread(), workers = threads();
    pack(a.text, 1, a.ldt, d, c, keys.at, worker, workers);
    pack(a.text, a.ldt, 1, c, d, values.at, worker, workers);
    for (int64_t j = c * worker / workers; j < c * (worker + 1) / workers; ++j) norm_row<float>(texts, j);
#pragma omp barrier
    if (a.smoothing) {
#pragma omp single
      {
        std::fill_n(mean.at, d, 0.0f);
        for (int64_t j = 0; j < c; ++j) {
          const float factor = inv_t.at[j] / float(c), *t = a.text + j * a.ldt;
#pragma omp simd
          for (int64_t p = 0; p < d; ++p) mean.at[p] += factor * t[p];
        }
      }
    }
    float *x = work.at + worker * per_worker, *inv_z = x + block * wide, *top = inv_z + block, *others = top + block,
          *label_logit = others + block, *ratio = label_logit + block, *label_coef = ratio + block,
          *cosines = label_coef + block, *o = cosines + block;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a.rows; i += block) {
      const int64_t m = std::min(block, a.rows - i);
      const float* z = a.z + i * a.ldz;
      const int64_t* labels = a.labels + i;
      float* out = a.dz ? a.dz + i * d : o;
      const RowNorm lengths{z, nullptr, inv_z, a.ldz, 0, m, d, kFloat32, 1};
      const AlignChunk chunk{x, wide, m, c, inv_z, inv_t.at, labels, 0, a.scale, fixed, true, top, others, ratio,
                             label_logit, cosines, kFloat32, 1};
      const AlignFinish finish{out, z, a.text, a.dz ? out : nullptr, d, a.ldz, a.ldt, d, m, d, inv_z, inv_t.at,
                               a.smoothing ? mean.at : nullptr, labels, a.ignore, a.scale, a.smoothing, top, others,
                               label_logit, cosines, a.folded ? gain.at + i : nullptr, a.ce + i, a.dscale + i, ratio,
                               label_coef, kFloat32, 1};
      multiply(m, c, d, z, a.ldz, keys.at, x, wide);
      for (int64_t r = 0; r < m; ++r) {
        top[r] = a.scale;
        norm_row<float>(lengths, r);
        chunk_row<float>(chunk, r);
      }
      multiply(m, d, c, x, wide, values.at, out, d);
      for (int64_t r = 0; r < m; ++r) finish_row<float>(finish, r);
    }
  }
  total = 0.0;
  for (int64_t i = 0; i < a.rows; ++i) total += double(a.ce[i]) * a.weights[i];
  for (int64_t i = 0; a.reduction == kNone && i < a.rows; ++i) a.loss[i] = a.ce[i] * a.weights[i];
  if (a.reduction != kNone) *a.loss = float(total * norm);
  *a.norm = norm;
  return 0;
}

} }  // namespace mmcl::MMCL_ISA
