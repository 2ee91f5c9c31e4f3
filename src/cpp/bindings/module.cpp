// The extension flatcore._core: a table of contents.
#include <pybind11/pybind11.h>

#include "bindings/registrations.hpp"
#include "core/errors.hpp"

PYBIND11_MODULE(_core, module) {
    module.doc() = "C++ kernels of flatcore; arguments are checked by the Python layer above.";
    pybind11::register_exception_translator([](std::exception_ptr error) {
        try {
            if (error) std::rethrow_exception(error);
        } catch (const flatcore::InvalidArgument& e) {
            PyErr_SetString(PyExc_ValueError, e.what());
        } catch (const flatcore::NumericalFailure& e) {
            PyErr_SetString(PyExc_RuntimeError, e.what());
        }
    });
    flatcore::bindings::bind_lapack(module);
    flatcore::bindings::bind_block_vectors(module);
    flatcore::bindings::bind_chain(module);
    flatcore::bindings::bind_hessian(module);
    flatcore::bindings::bind_svd(module);
    flatcore::bindings::bind_many(module);
    flatcore::bindings::bind_weights(module);
    flatcore::bindings::bind_wfm_amp(module);
    flatcore::bindings::bind_wfm_edges(module);
    flatcore::bindings::bind_wfm_patterns(module);
    flatcore::bindings::bind_wfm_online(module);
}
