#include "core/dual.hpp"

#include <utility>

#include "core/errors.hpp"

namespace flatcore {

namespace {

AffineRows<double> start_rows(const Chain& chain, NarrowEnd side, ConstMatrixView<double> factor) {
    if (side == NarrowEnd::output) {
        const Index m = chain.dim(chain.depth());
        AffineRows<double> out(m, m, chain.homogeneous());
        out.body.view().eigen().setIdentity();
        return out;
    }
    const Index d = chain.dim(0), extra = chain.homogeneous() ? 1 : 0;
    require(factor.cols == d + extra, "the input factor is ", factor.rows, "x", factor.cols, ", expected ", d + extra,
            " columns");
    AffineRows<double> out(factor.rows, d, chain.homogeneous());
    out.body.view().eigen() = factor.col_block(0, d).eigen();
    for (Index i = 0; i < factor.rows && extra; ++i) out.column[static_cast<std::size_t>(i)] = factor(i, d);
    return out;
}

Matrix<double> gram(const AffineRows<double>& rows, bool with_column, RunControl& control) {
    Matrix<double> out(rows.rows(), rows.rows());
    const ConstMatrixView<double> body = rows.body.view();
    multiply<double>(1.0, body, body.transposed(), 0.0, out.view(), control);
    if (with_column) {
        const ConstMatrixView<double> column(rows.column.data(), rows.rows(), 1);
        out.view().eigen() += column.eigen().lazyProduct(column.transposed().eigen());
    }
    return out;
}

}  // namespace

std::vector<Matrix<double>> side_grams(const Chain& chain, NarrowEnd side, ConstMatrixView<double> factor,
                                       RunControl& control) {
    const Index depth = chain.depth();
    std::vector<Matrix<double>> out(static_cast<std::size_t>(depth));
    AffineRows<double> rows = start_rows(chain, side, factor);
    for (Index step = 0; step < depth; ++step) {
        const Index j = side == NarrowEnd::output ? depth - step : step + 1;
        const bool with_column = side == NarrowEnd::input && chain.layer(j).bias;
        out[static_cast<std::size_t>(j - 1)] = gram(rows, with_column, control);
        if (step + 1 == depth) break;
        rows = side == NarrowEnd::output ? move_down(chain, j, rows, control) : move_up(chain, j, rows, control);
    }
    return out;
}

}  // namespace flatcore
