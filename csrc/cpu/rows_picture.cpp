// Images: a box resized to a square as Pillow resizes, and the normalisation into a batch.
#include <cmath>
#include <vector>

#include "lanes.h"

namespace mmcl { namespace MMCL_ISA {

namespace {
inline uint8_t byte(float v) { return uint8_t(v < 0.0f ? 0.0f : v > 255.0f ? 255.0f : v); }
}  // namespace

// One row of three channels, out = in scale + shift. Pixels lie Step apart; 0: the run-time value `step`. A constant
// step lets the compiler vectorise.
template <typename T, int Step>
static void normalise_row(const T* r, const T* g, const T* b, int64_t step, int64_t width, const float* scale,
                   const float* shift, float* x, float* y, float* z) {
  const int64_t s = Step ? Step : step;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    x[i] = float(r[i * s]) * scale[0] + shift[0];
    y[i] = float(g[i * s]) * scale[1] + shift[1];
    z[i] = float(b[i * s]) * scale[2] + shift[2];
  }
}

template <typename T>
static void normalise_of(const Normalise& a) {
  for (int64_t f = 0; f < a.frames; ++f)
    for (int64_t y = 0; y < a.height; ++y) {
      const T* in = static_cast<const T*>(a.in) + f * a.in_frame + y * a.in_row;
      float* out = a.out + f * a.out_frame + y * a.width;
      const auto kernel = a.in_pixel == 1 ? normalise_row<T, 1> : a.in_pixel == 3 ? normalise_row<T, 3>
                          : a.in_pixel == 4 ? normalise_row<T, 4> : normalise_row<T, 0>;
      kernel(in, in + a.in_channel, in + 2 * a.in_channel, a.in_pixel, a.width, a.scale, a.shift, out,
             out + a.out_channel, out + 2 * a.out_channel);
    }
}

int normalise(const Normalise& a) {
  if (a.bytes) normalise_of<uint8_t>(a);
  else normalise_of<float>(a);
  return 0;
}

namespace {
// One axis of Pillow's resize: first input and weights of each output (precompute_coeffs in Pillow's Resample.c).
struct Axis {
  std::vector<int32_t> first;
  std::vector<float> weights;
  int64_t taps = 0;

  void set(double low, double high, int64_t length, int64_t size, bool cubic) {
    const double scale = (high - low) / double(size), wide = scale < 1.0 ? 1.0 : scale;
    const double support = (cubic ? 2.0 : 1.0) * wide;
    taps = int64_t(2.0 * support) + 1;
    taps = taps < length ? taps : length;
    first.assign(size_t(size), 0);
    weights.assign(size_t(size * taps), 0.0f);
    for (int64_t x = 0; x < size; ++x) {
      const double centre = low + (double(x) + 0.5) * scale;
      int64_t from = int64_t(centre - support + 0.5), to = int64_t(centre + support + 0.5);
      from = from < 0 ? 0 : from;
      to = to > length ? length : to;
      double sum = 0.0;
      for (int64_t k = from; k < to; ++k) sum += value((double(k) - centre + 0.5) / wide, cubic);
      const int64_t start = from + taps > length ? length - taps : from;  // all taps lie inside
      for (int64_t k = from; k < to; ++k)
        weights[size_t(x * taps + k - start)] = float(value((double(k) - centre + 0.5) / wide, cubic) / sum);
      first[size_t(x)] = int32_t(start);
    }
  }

  static double value(double x, bool cubic) {
    x = std::fabs(x);
    if (!cubic) return x < 1.0 ? 1.0 - x : 0.0;
    constexpr double a = -0.5;
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
  }
};

}  // namespace

// Resizes a line (width, Step) to out (size, 4). Each sum has 0.5 added, so that cutting it to a byte rounds it.
template <int Step, int Taps = 0>
static void resize_line(const float* line, const Axis& axis, int64_t size, bool flip, float* out) {
  const int64_t taps = Taps ? Taps : axis.taps;
  const float* w = axis.weights.data();
  float* to = flip ? out + (size - 1) * 4 : out;
  for (int64_t x = 0; x < size; ++x, w += taps, to += flip ? -4 : 4) {
    const float* from = line + axis.first[size_t(x)] * Step;
    Four sum = {0.5f, 0.5f, 0.5f, 0.5f};
    for (int64_t k = 0; k < taps; ++k) sum += load_as<Four>(from + k * Step) * w[k];
    store_as(to, sum);
  }
}

template <int Step>
static auto resizer(int64_t taps) {  // a constant number of taps is unrolled, which halves the time
  using Kernel = void (*)(const float*, const Axis&, int64_t, bool, float*);
  const Kernel kernels[] = {resize_line<Step>, resize_line<Step>, resize_line<Step, 2>, resize_line<Step, 3>,
                            resize_line<Step, 4>, resize_line<Step, 5>, resize_line<Step, 6>, resize_line<Step, 7>,
                            resize_line<Step, 8>, resize_line<Step, 9>, resize_line<Step, 10>, resize_line<Step, 11>,
                            resize_line<Step, 12>};
  return kernels[taps > 12 ? 0 : taps];
}

// Resizes along the rows to bytes, then along the columns to bytes, in Pillow's order. From its version 13 on Pillow
// begins with the columns if the height shrinks much more.
int square(const Square& a) {
  static thread_local Axis across, down;
  static thread_local std::vector<uint8_t> narrow;
  static thread_local std::vector<float> floats;
  if (a.in_pixel != 3 && a.in_pixel != 4) return kBadLength;
  across.set(a.left, a.right, a.width, a.size, a.cubic);
  down.set(a.top, a.bottom, a.height, a.size, a.cubic);
  const int64_t row = a.size * 4, top = down.first[0], bottom = down.first[size_t(a.size - 1)] + down.taps;
  const int64_t left = across.first[0] * a.in_pixel;
  const int64_t right = (across.first[size_t(a.size - 1)] + across.taps) * a.in_pixel;
  narrow.resize(size_t((bottom - top + 1) * row));
  floats.resize(size_t(a.width * a.in_pixel + 4 + row));  // the last pixel of three is read as four
  float *line = floats.data(), *sum = line + a.width * a.in_pixel + 4;
  const auto resize_row = a.in_pixel == 3 ? resizer<3>(across.taps) : resizer<4>(across.taps);
  for (int64_t y = top; y < bottom; ++y) {
    const uint8_t* in = a.in + y * a.in_row;
#pragma omp simd
    for (int64_t x = left; x < right; ++x) line[x] = float(in[x]);
    resize_row(line, across, a.size, a.flip, sum);
    uint8_t* to = narrow.data() + (y - top) * row;
#pragma omp simd
    for (int64_t x = 0; x < row; ++x) to[x] = byte(sum[x]);
  }
  uint8_t* bytes = narrow.data() + (bottom - top) * row;
  for (int64_t y = 0; y < a.size; ++y) {
    const float* w = down.weights.data() + y * down.taps;
    const uint8_t* from = narrow.data() + (down.first[size_t(y)] - top) * row;
#pragma omp simd
    for (int64_t x = 0; x < row; ++x) sum[x] = 0.5f + w[0] * float(from[x]);
    for (int64_t k = 1; k < down.taps; ++k) {
      const uint8_t* at = from + k * row;
#pragma omp simd
      for (int64_t x = 0; x < row; ++x) sum[x] += w[k] * float(at[x]);
    }
#pragma omp simd
    for (int64_t x = 0; x < row; ++x) bytes[x] = byte(sum[x]);
    uint8_t *red = a.out + y * a.size, *green = red + a.size * a.size, *blue = green + a.size * a.size;
#pragma omp simd
    for (int64_t x = 0; x < a.size; ++x) {
      red[x] = bytes[4 * x]; green[x] = bytes[4 * x + 1]; blue[x] = bytes[4 * x + 2];
    }
  }
  return 0;
}

} }  // namespace mmcl::MMCL_ISA
