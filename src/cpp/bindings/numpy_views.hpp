// NumPy arrays as core views, without copies, and core results as NumPy arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/errors.hpp"
#include "core/matrix_product.hpp"
#include "core/views.hpp"

namespace flatcore::bindings {

namespace py = pybind11;

inline Scalar scalar_of_array(const py::array& array) {
    if (py::isinstance<py::array_t<float>>(array)) return Scalar::f32;
    if (py::isinstance<py::array_t<double>>(array)) return Scalar::f64;
    throw InvalidArgument("expected a float32 or float64 array, got " + py::cast<std::string>(py::str(array.dtype())));
}

// kernel(T{}) for the array's precision.
template <class Kernel>
void dispatch(const py::array& array, const Kernel& kernel) {
    if (scalar_of_array(array) == Scalar::f32)
        kernel(float{});
    else
        kernel(double{});
}

// As a weight may be stored: also float16 and ml_dtypes' bfloat16.
inline Scalar stored_scalar(const py::array& array) {
    if (array.itemsize() == 2) {
        const auto name = py::cast<std::string>(array.dtype().attr("name"));
        if (name == "float16") return Scalar::f16;
        if (name == "bfloat16") return Scalar::bf16;
    }
    return scalar_of_array(array);
}

// A matrix as stored; both strides are whole numbers of entries, as NumPy guarantees for aligned arrays.
inline StoredMatrix stored_matrix(const py::array& array) {
    require(array.ndim() == 2, "expected a matrix, got an array of ", array.ndim(), " dimensions");
    return {array.data(),
            stored_scalar(array),
            array.shape(0),
            array.shape(1),
            array.strides(0) / array.itemsize(),
            array.strides(1) / array.itemsize()};
}

template <class T>
ConstMatrixView<T> const_view(const py::array& array) {
    const StoredMatrix stored = stored_matrix(array);
    require(stored.scalar == scalar_of<T>(), "expected ", sizeof(T) * 8, "-bit floats");
    return stored.as<T>();
}

template <class T>
MatrixView<T> mutable_view(py::array& array) {
    const ConstMatrixView<T> view = const_view<T>(array);
    return {static_cast<T*>(array.mutable_data()), view.rows, view.cols, view.row_stride, view.col_stride};
}

// The array takes the matrix's memory over.
template <class T>
py::array_t<T> to_numpy(Matrix<T> matrix) {
    const Index rows = matrix.rows(), cols = matrix.cols();
    auto owner = std::make_unique<Matrix<T>>(std::move(matrix));
    T* data = owner->data();
    py::capsule base(owner.release(), [](void* pointer) { delete static_cast<Matrix<T>*>(pointer); });
    return py::array_t<T>({rows, cols}, data, base);
}

template <class T>
py::array_t<T> to_numpy(const std::vector<T>& values) {
    return py::array_t<T>(static_cast<Index>(values.size()), values.data());
}

}  // namespace flatcore::bindings
