// Run control for Python callers: Ctrl-C and an optional progress callback reach the kernels' checkpoints.
#pragma once

#include <pybind11/pybind11.h>

#include "core/run_control.hpp"

namespace flatcore::bindings {

namespace py = pybind11;

// progress: None or a callable of one float. Must be made, and must die, with the GIL held.
inline RunControl python_control(const py::object& progress = py::none()) {
    return RunControl([progress](double fraction) {
        const py::gil_scoped_acquire gil;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        if (!progress.is_none()) progress(fraction);
    });
}

}  // namespace flatcore::bindings
