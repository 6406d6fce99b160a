// The Python module mmcl_fast._C. A function takes addresses as integers, in the order of its struct in the headers.
// It returns an error code. The callers are mmcl_fast/ops and mmcl_fast/media.
#include <pybind11/pybind11.h>

#include "build_info.h"
#include "cpu/media.h"
#include "kernels.h"
#ifdef MMCL_CUDA
#include "cuda/bindings.h"
#endif

namespace py = pybind11;
using addr = std::uintptr_t;
using i64 = std::int64_t;

template <typename T> static T* at(addr a) { return reinterpret_cast<T*>(a); }

PYBIND11_MODULE(_C, m) {
  using namespace mmcl;
  using free_gil = py::call_guard<py::gil_scoped_release>;
  m.def("build_info", [] { return std::string(kBuildInfo); }, "How this file was built, as JSON.");
  m.def("cpu_isa", [] { return std::string(cpu_isa()); }, "The instruction set of the row kernels on this machine.");
  m.attr("ATTENTION_COLUMNS") = kRow;

  m.def("align_chunk", [](addr x, i64 ldx, i64 rows, i64 cols, addr inv_z, addr inv_t, addr labels, i64 first,
                          float scale,
                          bool fixed_max, bool start, addr row_max, addr row_sum, addr row_fix, addr label_logit,
                          int dtype, int threads) {
    return align_chunk({at<void>(x), ldx, rows, cols, at<const float>(inv_z), at<const float>(inv_t),
                        at<const i64>(labels), first, scale,
                        fixed_max, start, at<float>(row_max), at<float>(row_sum), at<float>(row_fix),
                        at<float>(label_logit), nullptr, dtype, threads});
  }, free_gil());
  m.def("align_finish", [](addr o, addr z, addr text, addr dz, i64 ldo, i64 ldz, i64 ldt, i64 lddz, i64 rows,
                           i64 width, addr inv_z, addr inv_t, addr mean_text, addr labels, i64 ignore, float scale,
                           float smoothing, addr row_max, addr row_sum, addr label_logit, addr loss, addr dscale,
                           addr ratio, addr label_coef, int dtype, int threads) {
    return align_finish({at<const float>(o), at<const void>(z), at<const void>(text), at<void>(dz), ldo, ldz, ldt,
                         lddz, rows, width, at<const float>(inv_z), at<const float>(inv_t), at<const float>(mean_text),
                         at<const i64>(labels), ignore, scale, smoothing, at<const float>(row_max),
                         at<const float>(row_sum), at<const float>(label_logit), nullptr, nullptr, at<float>(loss),
                         at<float>(dscale),
                         at<float>(ratio), at<float>(label_coef), dtype, threads});
  }, free_gil());
  m.def("align_rows", [](addr z, addr text, addr weight, addr labels, addr loss, addr ce, addr weights, addr norm,
                         addr dz,
                         addr dscale, i64 ldz, i64 ldt, i64 rows, i64 classes, i64 width, i64 ignore, float scale,
                         float smoothing, float fixed_up_to, int reduction, bool folded, int threads) {
    return align_rows({at<const float>(z), at<const float>(text), at<const float>(weight), at<const i64>(labels),
                       at<float>(loss), at<float>(ce), at<float>(weights), at<float>(norm), at<float>(dz),
                       at<float>(dscale), ldz, ldt, rows, classes, width, ignore, scale, smoothing, fixed_up_to,
                       reduction, folded, threads});
  }, free_gil());
  m.def("row_norm", [](addr x, addr unit, addr inv, i64 ldx, i64 ldu, i64 rows, i64 width, int dtype, int threads) {
    return row_norm({at<const void>(x), at<void>(unit), at<float>(inv), ldx, ldu, rows, width, dtype, threads});
  }, free_gil());
  m.def("gate_rows", [](addr h, addr gate, addr out, i64 ldh, i64 ldg, i64 ldo, i64 rows, i64 groups, i64 rank,
                        int dtype, int threads) {
    return gate_rows({at<const void>(h), at<const void>(gate), at<void>(out), ldh, ldg, ldo, rows, groups, rank,
                      dtype, threads});
  }, free_gil());
  m.def("add_norm", [](addr z, addr s, addr e, addr inv, i64 ldz, i64 lds, i64 lde, i64 rows, i64 width, int dtype,
                       int threads) {
    return add_norm({at<const void>(z), at<const void>(s), at<void>(e), at<float>(inv), ldz, lds, lde, rows, width,
                     dtype, threads});
  }, free_gil());
  m.def("project", [](addr de, addr e, addr inv, addr dv, i64 ldde, i64 lde, i64 lddv, i64 rows, i64 width, int dtype,
                      int threads) {
    return project({at<const void>(de), at<const void>(e), at<const float>(inv), at<void>(dv), ldde, lde, lddv, rows,
                    width, dtype, threads});
  }, free_gil());
  m.def("gate_back", [](addr d, addr h, addr gate, addr scaled, addr dgate, i64 ldd, i64 ldh, i64 ldg, i64 lds,
                        i64 lddg, i64 rows, i64 groups, i64 rank, int dtype, int threads) {
    return gate_back({at<void>(d), at<const void>(h), at<const void>(gate), at<void>(scaled), at<void>(dgate), ldd,
                      ldh, ldg, lds, lddg, rows, groups, rank, dtype, threads});
  }, free_gil());
  m.def("realign_forward", [](addr u, addr z, addr gate, addr down, addr up, addr e, addr inv, addr h, i64 ldu, i64 ldz,
                              i64 ldg, i64 rows, i64 width, i64 from, i64 groups, i64 rank, int threads) {
    return realign_forward({at<const float>(u), at<const float>(z), at<const float>(gate), at<const float>(down),
                            at<const float>(up), at<float>(e), at<float>(inv), at<float>(h), ldu, ldz, ldg, rows, width,
                            from, groups, rank, threads});
  }, free_gil());
  m.def("realign_back", [](addr de, addr e, addr inv, addr h, addr u, addr gate, addr down, addr up, addr dz,
                           addr dgate,
                           addr ddown, addr dup, addr du, i64 ldde, i64 ldu, i64 ldg, i64 rows, i64 width, i64 from,
                           i64 groups, i64 rank, bool adds, int threads) {
    return realign_back({at<const float>(de), at<const float>(e), at<const float>(inv), at<const float>(h),
                         at<const float>(u), at<const float>(gate), at<const float>(down), at<const float>(up),
                         at<float>(dz), at<float>(dgate), at<float>(ddown), at<float>(dup), at<float>(du), ldde, ldu,
                         ldg,
                         rows, width, from, groups, rank, adds, threads});
  }, free_gil());
  m.def("softmax_rows", [](addr x, addr mask, i64 rows, i64 cols, i64 rows_per_mask, i64 length, i64 causal,
                           float scale,
                           int dtype, int threads) {
    return softmax_rows({at<void>(x), at<const std::uint8_t>(mask), rows, cols, rows_per_mask, length, causal, scale,
                         dtype, threads});
  }, free_gil());
  m.def("softmax_back", [](addr p, addr d, addr row_sums, i64 ldp, i64 rows, i64 cols, float scale, int dtype,
                           int threads) {
    return softmax_back({at<const void>(p), at<void>(d), at<const float>(row_sums), ldp, rows, cols, scale, dtype,
                         threads});
  }, free_gil());
  m.def("mono", [](addr samples, int kind, i64 frames, i64 channels, float loudest, addr out) {
    return mono({at<const void>(samples), kind, frames, channels, loudest, at<float>(out)});
  }, free_gil());
  m.def("resample", [](addr wave, i64 length, i64 half, i64 inputs, i64 outputs, i64 want, addr products, i64 count,
                       addr weights, addr out) {
    return resample({at<const float>(wave), length, half, inputs, outputs, want, at<const std::int32_t>(products),
                     count, at<const float>(weights), at<float>(out)});
  }, free_gil());
  m.def("mel_power", [](addr wave, i64 length, i64 hop, i64 n_fft, addr window, addr roots, addr radices, i64 stages,
                        addr filters, addr weights, i64 mels, addr power, i64 ld) {
    return mel_power({at<const float>(wave), length, hop, n_fft, at<const float>(window), at<const float>(roots),
                      at<const std::int32_t>(radices), stages, at<const std::int32_t>(filters),
                      at<const float>(weights), mels, at<float>(power), ld});
  }, free_gil());
  m.def("level_picture", [](addr power, i64 mels, i64 frames, i64 ld, float scale, float floor, float silence,
                            addr across_0, addr across_w, i64 across_taps, addr down_0, addr down_w, i64 down_taps,
                            i64 size, addr out) {
    return level_picture({at<const float>(power), mels, frames, ld, scale, floor, silence,
                          at<const std::int32_t>(across_0), at<const float>(across_w), across_taps,
                          at<const std::int32_t>(down_0), at<const float>(down_w), down_taps, size, at<float>(out)});
  }, free_gil());
  m.def("normalise", [](addr in, bool bytes, i64 frames, i64 height, i64 width, i64 in_frame, i64 in_channel,
                        i64 in_row,
                        i64 in_pixel, addr scale, addr shift, addr out, i64 out_frame, i64 out_channel) {
    return normalise({at<const void>(in), bytes, frames, height, width, in_frame, in_channel, in_row, in_pixel,
                      at<const float>(scale), at<const float>(shift), at<float>(out), out_frame, out_channel});
  }, free_gil());
  m.def("square", [](addr in, i64 height, i64 width, i64 in_row, i64 in_pixel, double left, double top, double right,
                     double bottom, i64 size, bool cubic, bool flip, addr out) {
    return square({at<const std::uint8_t>(in), height, width, in_row, in_pixel, left, top, right, bottom, size, cubic,
                   flip, at<std::uint8_t>(out)});
  }, free_gil());
#ifdef MMCL_CUDA
  cuda::bind(m);
#endif
}
