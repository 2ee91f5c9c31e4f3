// Shared pieces of the tests: random matrices, storage in every layout, entrywise comparison, plain-loop oracles.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "core/errors.hpp"
#include "core/lapack.hpp"
#include "core/matrix_product.hpp"
#include "core/parallel.hpp"
#include "core/views.hpp"

namespace flatcore::testing {

using Dense = Eigen::MatrixXd;

template <class T>
constexpr double eps() {
    return static_cast<double>(std::numeric_limits<T>::epsilon());
}

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Independent N(0, 1) entries rounded to float32, so that both precisions store the same matrix.
inline Dense random_dense(Index rows, Index cols, unsigned seed) {
    std::mt19937_64 generator(seed);
    std::normal_distribution<double> normal;
    Dense out(rows, cols);
    for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < cols; ++j) out(i, j) = static_cast<double>(static_cast<float>(normal(generator)));
    return out;
}

enum class Layout { row, row_padded, col, col_padded };
constexpr Layout kLayouts[] = {Layout::row, Layout::row_padded, Layout::col, Layout::col_padded};

// A matrix in memory of its own; padding between its rows or columns is NaN.
template <class T>
class Stored {
 public:
    Stored(const Dense& values, Layout layout) {
        const bool by_rows = layout == Layout::row || layout == Layout::row_padded;
        const Index padding = layout == Layout::row_padded || layout == Layout::col_padded ? 3 : 0;
        const Index leading = (by_rows ? values.cols() : values.rows()) + padding;
        const Index lines = by_rows ? values.rows() : values.cols();
        memory_.assign(static_cast<std::size_t>(leading * lines), static_cast<T>(kNaN));
        view_ =
            MatrixView<T>(memory_.data(), values.rows(), values.cols(), by_rows ? leading : 1, by_rows ? 1 : leading);
        for (Index i = 0; i < values.rows(); ++i)
            for (Index j = 0; j < values.cols(); ++j) view_(i, j) = static_cast<T>(values(i, j));
    }
    Stored(Stored&&) = default;
    Stored(const Stored&) = delete;

    MatrixView<T> view() const { return view_; }
    ConstMatrixView<T> read() const { return view_; }
    // Entries that are NaN: the padding, if the matrix holds none.
    Index count_nan() const {
        Index count = 0;
        for (const T entry : memory_) count += std::isnan(entry) ? 1 : 0;
        return count;
    }
    Index padding() const { return static_cast<Index>(memory_.size()) - view_.rows * view_.cols; }

 private:
    std::vector<T> memory_;
    MatrixView<T> view_;
};

// As kernels read it, whatever its precision.
template <class S>
StoredMatrix as_stored(const Stored<S>& stored) {
    const auto view = stored.read();
    return {view.data, scalar_of<S>(), view.rows, view.cols, view.row_stride, view.col_stride};
}

template <class T>
Dense dense(MatrixView<T> A) {
    Dense out(A.rows, A.cols);
    for (Index i = 0; i < A.rows; ++i)
        for (Index j = 0; j < A.cols; ++j) out(i, j) = static_cast<double>(A(i, j));
    return out;
}

inline Dense filled(Index rows, Index cols, double value) { return Dense::Constant(rows, cols, value); }

// max |A − B|, NaN as soon as one difference is NaN or the shapes differ.
inline double max_difference(const Dense& A, const Dense& B) {
    if (A.rows() != B.rows() || A.cols() != B.cols()) return kNaN;
    double worst = 0.0;
    for (Index i = 0; i < A.rows(); ++i) {
        for (Index j = 0; j < A.cols(); ++j) {
            const double difference = std::abs(A(i, j) - B(i, j));
            if (std::isnan(difference)) return kNaN;
            worst = std::max(worst, difference);
        }
    }
    return worst;
}

inline double max_abs(const Dense& A) { return max_difference(A, Dense::Zero(A.rows(), A.cols())); }

// A B by the definition, summed in long double.
inline Dense plain_product(const Dense& A, const Dense& B) {
    Dense out(A.rows(), B.cols());
    for (Index i = 0; i < A.rows(); ++i) {
        for (Index j = 0; j < B.cols(); ++j) {
            long double sum = 0.0L;
            for (Index k = 0; k < A.cols(); ++k) sum += static_cast<long double>(A(i, k)) * B(k, j);
            out(i, j) = static_cast<double>(sum);
        }
    }
    return out;
}

// Another LAPACK table for the duration of a scope.
class TableScope {
 public:
    explicit TableScope(const LapackTable& table) : previous_(lapack()) { install_lapack(table); }
    ~TableScope() { install_lapack(previous_); }
    TableScope(const TableScope&) = delete;

 private:
    LapackTable previous_;
};

// Threads of the kernels while it lives.
class ThreadScope {
 public:
    explicit ThreadScope(int threads) {
#ifdef _OPENMP
        omp_set_num_threads(threads);
#else
        (void)threads;
#endif
    }
    ~ThreadScope() {
#ifdef _OPENMP
        omp_set_num_threads(previous_);
#endif
    }
    ThreadScope(const ThreadScope&) = delete;

 private:
    int previous_ = max_threads();
};

}  // namespace flatcore::testing
