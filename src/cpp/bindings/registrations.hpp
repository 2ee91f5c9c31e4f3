// One registration function a family; module.cpp calls them.
#pragma once

#include <pybind11/pybind11.h>

namespace flatcore::bindings {

void bind_lapack(pybind11::module_& module);
void bind_block_vectors(pybind11::module_& module);
void bind_chain(pybind11::module_& module);
void bind_hessian(pybind11::module_& module);
void bind_svd(pybind11::module_& module);
void bind_many(pybind11::module_& module);
void bind_weights(pybind11::module_& module);
void bind_wfm_amp(pybind11::module_& module);
void bind_wfm_edges(pybind11::module_& module);
void bind_wfm_patterns(pybind11::module_& module);
void bind_wfm_online(pybind11::module_& module);

}  // namespace flatcore::bindings
