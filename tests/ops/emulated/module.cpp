// A Python module in place of mmcl_fast._C.cuda.
#include "bindings.h"
#include "emulate.h"

PYBIND11_MODULE(_emulated, m) {
  mmcl::cuda::bind(m);
  m.def("set_hardware", [](int timing, unsigned seed) { emulated::timing = timing, emulated::seed = seed; },
        "timing: 0 early, 1 late, 2 random; seed: of the order of warps and of random delays.");
}
