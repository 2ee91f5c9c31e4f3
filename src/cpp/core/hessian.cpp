#include "core/hessian.hpp"

#include <algorithm>
#include <utility>

#include "core/errors.hpp"

namespace flatcore {

namespace {

template <class T>
AffineRows<T> zero_rows(Index rows, Index dim, bool homogeneous) {
    AffineRows<T> out(rows, dim, homogeneous);
    out.body.view().eigen().setZero();
    return out;
}

template <class U, class T>
std::vector<AffineRows<T>> cast_levels(const std::vector<AffineRows<U>>& levels) {
    std::vector<AffineRows<T>> out;
    for (const AffineRows<U>& level : levels) {
        AffineRows<T> copy(level.rows(), level.body.cols(), false);
        copy.body.view().eigen() = level.body.view().eigen().template cast<T>();
        copy.column.reserve(level.column.size());
        for (const U entry : level.column) copy.column.push_back(static_cast<T>(entry));
        out.push_back(std::move(copy));
    }
    return out;
}

// m rows of `a` from row a_first on, above m rows of `b` from row b_first on.
template <class T>
AffineRows<T> stacked(const AffineRows<T>& a, Index a_first, const AffineRows<T>& b, Index b_first, Index m) {
    AffineRows<T> out(2 * m, a.body.cols(), !a.column.empty());
    out.body.view().row_block(0, m).eigen() = a.body.view().row_block(a_first, m).eigen();
    out.body.view().row_block(m, m).eigen() = b.body.view().row_block(b_first, m).eigen();
    if (!out.column.empty()) {
        std::copy_n(a.column.begin() + a_first, m, out.column.begin());
        std::copy_n(b.column.begin() + b_first, m, out.column.begin() + m);
    }
    return out;
}

}  // namespace

template <class T>
LossHessian<T> matrix_loss(ConstMatrixView<T> matrix, RunControl& control) {
    return [matrix, &control](MatrixView<T> rows, Index) {
        Matrix<T> image(rows.rows, rows.cols);
        multiply<T>(T(1), rows, matrix, T(0), image.view(), control);
        rows.eigen() = image.view().eigen();
    };
}

template LossHessian<float> matrix_loss<float>(ConstMatrixView<float>, RunControl&);
template LossHessian<double> matrix_loss<double>(ConstMatrixView<double>, RunControl&);

template <class T>
ChainHessian<T>::ChainHessian(Chain chain, NarrowEnd end, ConstMatrixView<T> factor, RunControl& control)
    : chain_(std::move(chain)), end_(end) {
    near_.resize(static_cast<std::size_t>(chain_.depth() + 1));
    AffineRows<T> start;
    if (end_ == NarrowEnd::output) {
        const Index m = chain_.dim(chain_.depth());
        start = zero_rows<T>(m, m, chain_.homogeneous());
        start.body.view().eigen().setIdentity();
    } else {
        const Index expected = chain_.dim(0) + (chain_.homogeneous() ? 1 : 0);
        require(factor.cols == expected && factor.rows > 0, "the input factor is ", factor.rows, "x", factor.cols,
                ", expected ", expected, " columns");
        start = AffineRows<T>(factor.rows, chain_.dim(0), chain_.homogeneous());
        split(factor, start);
    }
    near_[static_cast<std::size_t>(start_level())] = std::move(start);
    for (Index step = 0; step < chain_.depth(); ++step) {
        const Crossing at = crossing(step);
        near_[static_cast<std::size_t>(at.to)] = cross(at.layer, level(near_, at.from), true, control);
    }
}

template <class T>
template <class U>
ChainHessian<T>::ChainHessian(const ChainHessian<U>& other)
    : chain_(other.chain_),
      end_(other.end_),
      near_(cast_levels<U, T>(other.near_)),
      far_(cast_levels<U, T>(other.far_)),
      loss_gradient_is_zero_(other.loss_gradient_is_zero_) {}

template <class T>
Index ChainHessian<T>::far_width() const {
    return chain_.dim(far_level()) + (far_column_counts() ? 1 : 0);
}

template <class T>
typename ChainHessian<T>::Crossing ChainHessian<T>::crossing(Index step) const {
    if (end_ == NarrowEnd::output) {
        const Index j = chain_.depth() - step;
        return {j, j, j - 1};
    }
    return {step + 1, step, step + 1};
}

template <class T>
AffineRows<T> ChainHessian<T>::cross(Index layer, const AffineRows<T>& X, bool near_sweep, RunControl& control) const {
    const bool down = (end_ == NarrowEnd::output) == near_sweep;
    return down ? move_down(chain_, layer, X, control) : move_up(chain_, layer, X, control);
}

// The far end as the loss sees it: body and, where it counts, the homogeneous column behind it.
template <class T>
Matrix<T> ChainHessian<T>::joined(const AffineRows<T>& rows) const {
    Matrix<T> out(rows.rows(), far_width());
    out.view().col_block(0, rows.body.cols()).eigen() = rows.body.view().eigen();
    if (far_column_counts())
        for (Index i = 0; i < rows.rows(); ++i)
            out.view()(i, rows.body.cols()) = rows.column[static_cast<std::size_t>(i)];
    return out;
}

// The inverse of joined(): a homogeneous column is taken where the view has one column more than the body.
template <class T>
void ChainHessian<T>::split(ConstMatrixView<T> joined_rows, AffineRows<T>& rows) const {
    const Index dim = rows.body.cols();
    rows.body.view().eigen() = joined_rows.col_block(0, dim).eigen();
    if (joined_rows.cols > dim)
        for (Index i = 0; i < rows.rows(); ++i) rows.column[static_cast<std::size_t>(i)] = joined_rows(i, dim);
}

template <class T>
Matrix<T> ChainHessian<T>::end_to_end() const {
    return joined(level(near_, far_level()));
}

template <class T>
void ChainHessian<T>::set_loss_gradient(ConstMatrixView<T> G, RunControl& control) {
    require(G.rows == narrow_width() && G.cols == far_width(), "the loss gradient is ", G.rows, "x", G.cols,
            ", expected ", narrow_width(), "x", far_width());
    loss_gradient_is_zero_ = (G.eigen().array() == T(0)).all();
    far_.clear();
    far_.resize(static_cast<std::size_t>(chain_.depth() + 1));
    AffineRows<T> start(G.rows, chain_.dim(far_level()), chain_.homogeneous());
    split(G, start);
    far_[static_cast<std::size_t>(far_level())] = std::move(start);
    for (Index step = chain_.depth() - 1; step > 0; --step) {  // the narrow end's own level is never used
        const Crossing at = crossing(step);
        far_[static_cast<std::size_t>(at.from)] = cross(at.layer, level(far_, at.to), false, control);
    }
}

template <class T>
void ChainHessian<T>::write_block(const Crossing& at, const AffineRows<T>& left, const AffineRows<T>& right, T* vector,
                                  RunControl& control) const {
    const bool output = end_ == NarrowEnd::output;
    const AffineRows<T>& above = output ? left : right;  // at level j
    const AffineRows<T>& below = output ? right : left;  // at level j - 1
    const MatrixView<T> block = chain_.weight_block(vector, at.layer);
    multiply<T>(T(1), above.body.view().transposed(), below.body.view(), T(0), block, control);
    if (chain_.layer(at.layer).bias) {
        const MatrixView<T> bias(vector + chain_.bias_offset(at.layer), block.rows, 1);
        const ConstMatrixView<T> column(below.column.data(), below.rows(), 1);
        bias.eigen().noalias() = above.body.view().eigen().transpose() * column.eigen();
    }
}

// D̃ of the last layer, one direction below the other: what the identity there multiplies.
template <class T>
AffineRows<T> ChainHessian<T>::directions_at(Index layer, ConstMatrixView<T> directions) const {
    const Index m = chain_.dim(layer);
    AffineRows<T> out(directions.rows * m, chain_.dim(layer - 1), chain_.homogeneous());
    for (Index i = 0; i < directions.rows; ++i) {
        const T* direction = directions.row_block(i, 1).data;
        out.body.view().row_block(i * m, m).eigen() = chain_.weight_block(direction, layer).eigen();
        if (chain_.layer(layer).bias) std::copy_n(direction + chain_.bias_offset(layer), m, out.column.begin() + i * m);
    }
    return out;
}

// Its inverse for one image: rows [first, …) as the layer's weight and bias.
template <class T>
void ChainHessian<T>::write_rows(Index layer, const AffineRows<T>& rows, Index first, T* vector) const {
    const MatrixView<T> block = chain_.weight_block(vector, layer);
    block.eigen() = rows.body.view().row_block(first, block.rows).eigen();
    if (chain_.layer(layer).bias)
        std::copy_n(rows.column.begin() + first, block.rows, vector + chain_.bias_offset(layer));
}

template <class T>
void ChainHessian<T>::gradient(T* out, RunControl& control) const {
    require(!far_.empty(), "set_loss_gradient comes before gradient");
    for (Index step = 0; step < chain_.depth(); ++step) {
        const Crossing at = crossing(step);
        write_block(at, level(near_, at.from), level(far_, at.to), out, control);
    }
}

template <class T>
void ChainHessian<T>::product(ConstMatrixView<T> directions, MatrixView<T> out, Curvature curvature,
                              const LossHessian<T>& loss, RunControl& control) const {
    const Index k = directions.rows, m = narrow_width(), depth = chain_.depth();
    const Index parameters = chain_.num_parameters();
    require(directions.cols == parameters && out.cols == parameters && out.rows == k, "product of ", k, "x",
            directions.cols, " into ", out.rows, "x", out.cols, ", expected ", parameters, " columns");
    require(!far_.empty(), "set_loss_gradient comes before product");
    if (k == 0) return;
    require(parameters == 1 || (directions.col_stride == 1 && out.col_stride == 1),
            "each direction must be contiguous");
    const bool full = curvature == Curvature::hessian && !loss_gradient_is_zero_;
    const auto direction = [&](Index i) { return directions.row_block(i, 1).data; };

    Levels dnear(static_cast<std::size_t>(depth + 1)), far_direction(static_cast<std::size_t>(depth + 1));
    const AffineRows<T> none(0, 0, false);
    if (!starts_with_identity())
        dnear[static_cast<std::size_t>(start_level())] =
            zero_rows<T>(k * m, chain_.dim(start_level()), chain_.homogeneous());
    for (Index step = 0; step < depth; ++step) {
        const Crossing at = crossing(step);
        AffineRows<T>& next = dnear[static_cast<std::size_t>(at.to)];
        AffineRows<T>& other = far_direction[static_cast<std::size_t>(at.from)];
        if (step == 0 && starts_with_identity()) {
            next = directions_at(at.layer, directions);
            continue;
        }
        next = step == 0 ? zero_rows<T>(k * m, chain_.dim(at.to), chain_.homogeneous())
                         : cross(at.layer, level(dnear, at.from), true, control);
        const bool with_far = full && step > 0;  // nothing lies beyond the narrow end
        other = with_far ? zero_rows<T>(k * m, chain_.dim(at.from), chain_.homogeneous()) : AffineRows<T>(0, 0, false);
        const AffineRows<T>&near = level(near_, at.from), &far = with_far ? level(far_, at.to) : none;
        for (Index i = 0; i < k; ++i) {
            if (end_ == NarrowEnd::output)
                add_direction(chain_, at.layer, near, far, direction(i), i * m, next, other, control);
            else
                add_direction(chain_, at.layer, far, near, direction(i), i * m, other, next, control);
        }
    }

    Matrix<T> image = joined(level(dnear, far_level()));
    loss(image.view(), k);
    AffineRows<T> sigma(k * m, chain_.dim(far_level()), chain_.homogeneous());
    split(image.view(), sigma);

    for (Index step = depth - 1; step >= 0; --step) {
        const Crossing at = crossing(step);
        for (Index i = 0; i < k; ++i) {
            T* target = out.row_block(i, 1).data;
            if (step == 0 && starts_with_identity()) {
                write_rows(at.layer, sigma, i * m, target);
            } else if (full) {
                write_block(at, stacked(level(near_, at.from), 0, level(dnear, at.from), i * m, m),
                            stacked(sigma, i * m, level(far_, at.to), 0, m), target, control);
            } else if (k == 1) {
                write_block(at, level(near_, at.from), sigma, target, control);
            } else {
                AffineRows<T> own(m, sigma.body.cols(), chain_.homogeneous());
                own.body.view().eigen() = sigma.body.view().row_block(i * m, m).eigen();
                if (!own.column.empty()) std::copy_n(sigma.column.begin() + i * m, m, own.column.begin());
                write_block(at, level(near_, at.from), own, target, control);
            }
        }
        if (step == 0) break;  // nothing lies beyond the narrow end
        AffineRows<T> next = cross(at.layer, sigma, false, control);
        if (full) add_rows(level(far_direction, at.from), next);
        sigma = std::move(next);
    }
}

template class ChainHessian<float>;
template class ChainHessian<double>;
template ChainHessian<float>::ChainHessian(const ChainHessian<double>&);

}  // namespace flatcore
