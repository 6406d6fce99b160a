// The submodule mmcl_fast._C.cuda. Arguments have the order of the structs in kernels.h; the last one is the stream.
#include "bindings.h"

#include "kernels.h"

namespace mmcl { namespace cuda {
namespace {

namespace py = pybind11;
using addr = std::uintptr_t;
using i64 = std::int64_t;

template <typename T> T* at(addr a) { return reinterpret_cast<T*>(a); }
cudaStream_t on(addr s) { return reinterpret_cast<cudaStream_t>(s); }

}  // namespace

void bind(py::module_& module) {
  py::module_ m = module.def_submodule("cuda", "CUDA kernels; each returns a cudaError_t.");
  m.def("error", [](int code) { return std::string(cudaGetErrorString(cudaError_t(code))); });
  m.def("device_count", [] {
    int n = 0;
    const cudaError_t code = cudaGetDeviceCount(&n);
    return code == cudaSuccess ? n : -int(code);
  }, "Number of devices, or minus the error code if there is no driver.");
  m.def("row_norm", [](addr x, i64 ldx, addr inv, i64 rows, i64 width, int dtype, addr stream) {
    return row_norm({at<const void>(x), ldx, at<float>(inv), rows, width, dtype}, on(stream));
  });
  m.def("exp_rows", [](addr x, i64 ldx, i64 rows, i64 cols, addr labels, i64 first, addr inv_z, addr inv_t,
                       addr scale_at, float scale, bool start, addr row_max, addr row_sum, addr row_fix,
                       addr label_logit, int dtype, addr stream) {
    return exp_rows({at<void>(x), ldx, rows, cols, at<const i64>(labels), first, at<const float>(inv_z),
                     at<const float>(inv_t), at<const float>(scale_at), scale, start, at<float>(row_max),
                     at<float>(row_sum), at<float>(row_fix), at<float>(label_logit), dtype}, on(stream));
  });
  m.def("finish", [](addr o, addr z, i64 ldz, addr text, i64 ldt, addr mean_text, addr labels, addr inv_z, addr inv_t,
                     addr scale_at, float scale, addr row_max, addr row_sum, addr label_logit, addr loss, addr dz,
                     addr dscale, addr ratio, addr label_coef, i64 rows, i64 classes, i64 width, i64 ignore,
                     float smoothing, int splits, int dtype, addr stream) {
    return finish({at<const float>(o), at<const void>(z), ldz, at<const void>(text), ldt, at<const float>(mean_text),
                   at<const i64>(labels), at<const float>(inv_z), at<const float>(inv_t), at<const float>(scale_at),
                   scale, at<const float>(row_max), at<const float>(row_sum), at<const float>(label_logit),
                   at<float>(loss), at<void>(dz), at<float>(dscale), at<float>(ratio), at<float>(label_coef), rows,
                   classes, width, ignore, smoothing, splits, dtype}, on(stream));
  });
#ifdef MMCL_SM90A
  m.def("one_pass", [](addr z, i64 ldz, addr text, i64 ldt, addr labels, addr inv_z, addr inv_t, addr scale_at,
                       float scale, addr o, addr row_max, addr row_sum, addr label_logit, i64 rows, i64 classes,
                       i64 width, i64 tiles_per_cluster, int row_blocks, int dtype, addr stream) {
    return one_pass({at<const void>(z), ldz, at<const void>(text), ldt, at<const i64>(labels), at<const float>(inv_z),
                     at<const float>(inv_t), at<const float>(scale_at), scale, at<float>(o), at<float>(row_max),
                     at<float>(row_sum), at<float>(label_logit), rows, classes, width, tiles_per_cluster, row_blocks,
                     dtype}, on(stream));
  });
  m.def("one_pass_clusters", &one_pass_clusters, "Clusters that run at once, or minus the error code.");
#endif
  m.def("gate_rows", [](addr h, addr gate, i64 ldg, addr out, i64 rows, i64 groups, i64 rank, int dtype, addr stream) {
    return gate_rows({at<const void>(h), at<const void>(gate), ldg, at<void>(out), rows, groups, rank, dtype},
                     on(stream));
  });
  m.def("add_norm", [](addr z, i64 ldz, addr s, addr e, addr inv, i64 rows, i64 width, int dtype, addr stream) {
    return add_norm({at<const void>(z), ldz, at<const void>(s), at<void>(e), at<float>(inv), rows, width, dtype},
                    on(stream));
  });
  m.def("project", [](addr de, i64 ldde, addr e, addr inv, addr dv, i64 rows, i64 width, int dtype, addr stream) {
    return project({at<const void>(de), ldde, at<const void>(e), at<const float>(inv), at<void>(dv), rows, width,
                    dtype}, on(stream));
  });
  m.def("gate_back", [](addr d, addr h, addr gate, i64 ldg, addr scaled, addr dgate, i64 rows, i64 groups, i64 rank,
                        int dtype, addr stream) {
    return gate_back({at<void>(d), at<const void>(h), at<const void>(gate), ldg, at<void>(scaled), at<void>(dgate),
                      rows, groups, rank, dtype}, on(stream));
  });
}

} }  // namespace mmcl::cuda
