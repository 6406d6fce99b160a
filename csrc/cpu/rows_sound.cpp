// Sound to a log-mel image: mean of the channels, resampling, mel power, then level and resize.
#include <algorithm>
#include <cmath>
#include <vector>

#include "fft.h"

namespace mmcl { namespace MMCL_ISA {

namespace {
// Scratch memory that a thread keeps for its next item: fresh pages would cost more than the work on them.
struct Scratch {
  std::vector<Wide> wide;
  float* floats(size_t count) {
    wide.resize((count + kWide - 1) / kWide);
    return reinterpret_cast<float*>(wide.data());
  }
};
}  // namespace

template <typename T>
static int mono_of(const Mono& a) {
  const T* in = static_cast<const T*>(a.samples);
  const float share = (sizeof(T) == 2 ? 1.0f / 32768 : 1.0f) / float(a.channels);
  int loud = 0;
  if (a.channels == 1) {
#pragma omp simd reduction(| : loud)
    for (int64_t i = 0; i < a.frames; ++i) {
      const float v = float(in[i]) * share;
      a.out[i] = v;
      loud |= !(std::fabs(v) <= a.loudest);  // negated, so that a NaN is refused too
    }
    return loud ? kLoud : 0;
  }
  for (int64_t i = 0; i < a.frames; ++i) {
    float sum = 0.0f;
    for (int64_t c = 0; c < a.channels; ++c) sum += float(in[i * a.channels + c]);
    a.out[i] = sum *= share;
    loud |= !(std::fabs(sum) <= a.loudest);
  }
  return loud ? kLoud : 0;
}

int mono(const Mono& a) {
  return a.kind == kInt16Samples ? mono_of<int16_t>(a) : mono_of<float>(a);
}

// One product: Rows blocks of up to 16 outputs each, from `width` samples; the blocks' samples begin `inputs` apart.
// Only `room` outputs may be written.
template <int Rows>
static void tile(const float* in, int64_t inputs, const float* weights, int64_t width, int64_t ldw, float* out,
                 int64_t outputs, int64_t columns, int64_t room) {
  constexpr int kParts = 16 / kWide;
  Wide sum[Rows][kParts] = {};
  for (int64_t k = 0; k < width; ++k) {
    Wide w[kParts];
    for (int j = 0; j < kParts; ++j) w[j] = load_as<Wide>(weights + k * ldw + j * kWide);
    for (int r = 0; r < Rows; ++r) {
      const float v = in[r * inputs + k];
      for (int j = 0; j < kParts; ++j) sum[r][j] += w[j] * v;
    }
  }
  for (int r = 0; r < Rows; ++r) {
    const int64_t some = columns < room - r * outputs ? columns : room - r * outputs;
    if (some > 0) std::memcpy(out + r * outputs, sum[r], size_t(some) * 4);
  }
}

int resample(const Resample& a) {
  constexpr int kRows = kWide == 4 ? 2 : 6;
  static thread_local Scratch scratch;
  const int64_t blocks = (a.want + a.outputs - 1) / a.outputs;
  const int64_t total = std::max((blocks + 2) * a.inputs, a.half + a.length) + 2 * a.half;
  float* in = scratch.floats(size_t(total));
  std::memset(in, 0, size_t(a.half) * 4);
  std::memcpy(in + a.half, a.wave, size_t(a.length) * 4);
  std::memset(in + a.half + a.length, 0, size_t(total - a.half - a.length) * 4);
  for (const int32_t* p = a.products; p < a.products + 5 * a.count; p += 5) {
    const int64_t width = p[2], ldw = (p[3] + 15) / 16 * 16;
    for (int64_t column = 0; column < p[3]; column += 16) {
      const int64_t columns = std::min<int64_t>(16, p[3] - column);
      const float* weights = a.weights + p[4] + column;
      for (int64_t b = 0; b < blocks;) {
        const float* from = in + b * a.inputs + p[1];
        const int64_t place = b * a.outputs + p[0] + column;
        if (b + kRows <= blocks) {
          tile<kRows>(from, a.inputs, weights, width, ldw, a.out + place, a.outputs, columns, a.want - place);
          b += kRows;
        } else {
          tile<1>(from, a.inputs, weights, width, ldw, a.out + place, a.outputs, columns, a.want - place);
          b += 1;
        }
      }
    }
  }
  return 0;
}

// Multiplies kWide frames by the window and transposes them: to[j] holds sample j of every frame, one in each lane.
static void frames_to_lanes(const float* in, int64_t hop, int64_t n, const float* window, float* to) {
  for (int lane = 0; lane < kWide; lane += 4) {
    const float* row = in + lane * hop;
    int64_t j = 0;
    for (; j + 4 <= n; j += 4) {
      const Four w = load_as<Four>(window + j);
      Four a = load_as<Four>(row + j) * w, b = load_as<Four>(row + hop + j) * w;
      Four c = load_as<Four>(row + 2 * hop + j) * w, d = load_as<Four>(row + 3 * hop + j) * w;
      transpose(a, b, c, d);
      float* at = to + j * kWide + lane;
      store_as(at, a); store_as(at + kWide, b); store_as(at + 2 * kWide, c); store_as(at + 3 * kWide, d);
    }
    for (; j < n; ++j)
      for (int l = 0; l < 4; ++l) to[j * kWide + lane + l] = row[l * hop + j] * window[j];
  }
}

// The squared magnitude of a real transform from a complex one of half its length (Sorensen et al., "Real-valued fast
// Fourier transform algorithms", 1987). The 2 m real numbers were read as m complex ones, whose transform is z (m).
// Result: power (m + 1).
static void untangle(const Complex* z, int64_t m, const Root* roots, Wide* power) {
  const Wide sum = z[0].re + z[0].im, difference = z[0].re - z[0].im;
  power[0] = sum * sum;
  power[m] = difference * difference;
  for (int64_t k = 1; 2 * k <= m; ++k) {
    const Complex a = z[k], b = z[m - k];
    const Complex even{a.re + b.re, a.im - b.im}, odd = Complex{a.im + b.im, b.re - a.re} * roots[k];
    const Complex low = even + odd, high = even - odd;
    power[k] = (low.re * low.re + low.im * low.im) * 0.25f;
    power[m - k] = (high.re * high.re + high.im * high.im) * 0.25f;
  }
}

int mel_power(const MelPower& a) {
  static thread_local Scratch padded, work;
  const int64_t m = a.n_fft / 2, frames = 1 + a.length / a.hop, half = m;
  const int64_t groups = (frames + kWide - 1) / kWide;
  if (a.n_fft % 2 || a.ld < groups * kWide) return kBadLength;
  const int64_t total = std::max((groups * kWide - 1) * a.hop + a.n_fft, half + a.length);
  float* in = padded.floats(size_t(total));
  std::memset(in, 0, size_t(half) * 4);
  std::memcpy(in + half, a.wave, size_t(a.length) * 4);
  std::memset(in + half + a.length, 0, size_t(total - half - a.length) * 4);
  Complex* x = reinterpret_cast<Complex*>(work.floats(size_t(5 * m + 1) * kWide));
  Complex* y = x + m;
  Wide* power = reinterpret_cast<Wide*>(y + m);
  const Root* roots = reinterpret_cast<const Root*>(a.roots);
  for (int64_t g = 0; g < groups; ++g) {
    frames_to_lanes(in + g * kWide * a.hop, a.hop, a.n_fft, a.window, reinterpret_cast<float*>(x));
    const Complex* z = fft(x, y, m, a.radices, a.stages, roots, 2);
    if (!z) return kBadLength;
    untangle(z, m, roots, power);
    for (int64_t f = 0; f < a.mels; ++f) {
      const int32_t* filter = a.filters + 3 * f;
      const float* weights = a.weights + filter[2];
      Wide sum = {};
      for (int32_t k = 0; k < filter[1]; ++k) sum += power[filter[0] + k] * weights[k];
      store_as(a.power + f * a.ld + g * kWide, sum);
    }
  }
  return 0;
}

// log10 of a positive normal number, relative error below 2e-7 (Cephes logf).
static inline float fast_log10(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  const int32_t e = (bits - 0x3f3504f3) >> 23;  // so that x / 2^e lies in [sqrt(1/2), sqrt(2))
  bits -= e << 23;
  float f;
  std::memcpy(&f, &bits, 4);
  f -= 1.0f;
  float p = 7.0376836292e-2f;
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const float log = p * f * f * f - 0.5f * f * f + f;
  return log * 0.43429448190f + float(e) * 0.30102999566f;
}

int level_picture(const LevelPicture& a) {
  static thread_local Scratch scratch;
  float peak = 0.0f;
  for (int64_t f = 0; f < a.mels; ++f) {
    const float* row = a.power + f * a.ld;
#pragma omp simd reduction(max : peak)
    for (int64_t t = 0; t < a.frames; ++t) peak = row[t] > peak ? row[t] : peak;
  }
  if (!(peak > a.silence)) {
    std::memset(a.out, 0, size_t(a.size * a.size) * 4);
    return 0;
  }
  const int64_t width = a.frames + a.across_taps;
  float* level = scratch.floats(size_t(width + a.mels * a.size));
  float* narrow = level + width;
  std::memset(level + a.frames, 0, size_t(a.across_taps) * 4);
  const float inverse = 1.0f / peak;
  for (int64_t f = 0; f < a.mels; ++f) {
    const float* row = a.power + f * a.ld;
#pragma omp simd
    for (int64_t t = 0; t < a.frames; ++t) {
      float share = row[t] * inverse;
      share = share > 1.0f ? 1.0f : share > a.floor ? share : a.floor;
      const float value = 1.0f + a.scale * fast_log10(share);
      level[t] = value > 0.0f ? value : 0.0f;
    }
    float* to = narrow + f * a.size;
    for (int64_t x = 0; x < a.size; ++x) {
      const float *from = level + a.across_0[x], *w = a.across_w + x * a.across_taps;
      float sum = 0.0f;
      for (int64_t k = 0; k < a.across_taps; ++k) sum += w[k] * from[k];
      to[x] = sum;
    }
  }
  for (int64_t y = 0; y < a.size; ++y) {
    float* to = a.out + y * a.size;
    const float *from = narrow + a.down_0[y] * a.size, *w = a.down_w + y * a.down_taps;
#pragma omp simd
    for (int64_t x = 0; x < a.size; ++x) to[x] = w[0] * from[x];
    for (int64_t j = 1; j < a.down_taps; ++j)
#pragma omp simd
      for (int64_t x = 0; x < a.size; ++x) to[x] += w[j] * from[j * a.size + x];
  }
  return 0;
}

} }  // namespace mmcl::MMCL_ISA
