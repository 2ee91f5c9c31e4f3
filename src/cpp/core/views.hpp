// Views: a matrix of somebody else's memory, with any two strides, and an owned row-major matrix.
//
// The house layout is row-major (col_stride == 1). A transposed view only swaps sizes and strides, so "the other
// side" of a formula is the same code on transposed views.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

namespace flatcore {

using Index = std::ptrdiff_t;

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
struct MatrixView {
    T* data = nullptr;
    Index rows = 0, cols = 0;
    Index row_stride = 0, col_stride = 1;

    MatrixView() = default;
    MatrixView(T* data_, Index rows_, Index cols_) : MatrixView(data_, rows_, cols_, cols_, 1) {}
    MatrixView(T* data_, Index rows_, Index cols_, Index row_stride_, Index col_stride_)
        : data(data_), rows(rows_), cols(cols_), row_stride(row_stride_), col_stride(col_stride_) {}
    // A mutable view serves wherever a read-only one is asked for.
    template <class U, class = std::enable_if_t<std::is_same_v<const U, T> && !std::is_same_v<U, T>>>
    MatrixView(const MatrixView<U>& other)  // NOLINT(google-explicit-constructor)
        : MatrixView(other.data, other.rows, other.cols, other.row_stride, other.col_stride) {}

    T& operator()(Index i, Index j) const { return data[i * row_stride + j * col_stride]; }
    MatrixView transposed() const { return {data, cols, rows, col_stride, row_stride}; }
    MatrixView row_block(Index first, Index count) const {
        return {data + first * row_stride, count, cols, row_stride, col_stride};
    }
    MatrixView col_block(Index first, Index count) const {
        return {data + first * col_stride, rows, count, row_stride, col_stride};
    }
    bool empty() const { return rows == 0 || cols == 0; }

    using Plain = std::conditional_t<std::is_const_v<T>, const RowMajor<std::remove_const_t<T>>, RowMajor<T>>;
    using Map = Eigen::Map<Plain, Eigen::Unaligned, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
    Map eigen() const { return Map(data, rows, cols, {row_stride, col_stride}); }
};

template <class T>
using ConstMatrixView = MatrixView<const T>;

// An owned row-major matrix whose entries start uninitialised (every user writes before it reads).
template <class T>
class Matrix {
 public:
    Matrix() = default;
    Matrix(Index rows, Index cols)
        : rows_(rows),
          cols_(cols),
          owner_(::operator new(bytes(rows, cols) + kAlignment)),
          data_(aligned(owner_.get())) {}

    static Matrix zeros(Index rows, Index cols) {
        Matrix out(rows, cols);
        out.view().eigen().setZero();
        return out;
    }

    Index rows() const { return rows_; }
    Index cols() const { return cols_; }
    T* data() { return data_; }
    const T* data() const { return data_; }
    MatrixView<T> view() { return {data_, rows_, cols_}; }
    ConstMatrixView<T> view() const { return {data_, rows_, cols_}; }

 private:
    // A cache line: vectors never straddle two. Aligned by hand: aligned operator new takes a quarter of a microsecond.
    static constexpr std::size_t kAlignment = 64;
    static std::size_t bytes(Index rows, Index cols) { return static_cast<std::size_t>(rows * cols) * sizeof(T); }
    static T* aligned(void* memory) {
        const auto at = reinterpret_cast<std::uintptr_t>(memory);
        return reinterpret_cast<T*>((at + kAlignment - 1) / kAlignment * kAlignment);
    }
    struct Free {
        void operator()(void* memory) const { ::operator delete(memory); }
    };

    Index rows_ = 0, cols_ = 0;
    std::unique_ptr<void, Free> owner_;
    T* data_ = nullptr;
};

}  // namespace flatcore
