// Pictures: normalisation into the batch.
#include "media.h"
#include "variant.h"

namespace mmcl { namespace MMCL_ISA {

// One row of three channels whose pixels lie Step apart (0: known at run time only).
template <typename T, int Step>
static void row_of(const T* r, const T* g, const T* b, int64_t step, int64_t width, const float* scale,
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
      const auto way = a.in_pixel == 1 ? row_of<T, 1> : a.in_pixel == 3 ? row_of<T, 3>
                       : a.in_pixel == 4 ? row_of<T, 4> : row_of<T, 0>;
      way(in, in + a.in_channel, in + 2 * a.in_channel, a.in_pixel, a.width, a.scale, a.shift, out, out + a.out_channel,
          out + 2 * a.out_channel);
    }
}

int normalise(const Normalise& a) {
  if (a.bytes) normalise_of<uint8_t>(a);
  else normalise_of<float>(a);
  return 0;
}

} }  // namespace mmcl::MMCL_ISA
