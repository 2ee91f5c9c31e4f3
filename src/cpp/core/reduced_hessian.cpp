#include "core/reduced_hessian.hpp"

#include <Eigen/QR>
#include <algorithm>
#include <utility>

#include "core/errors.hpp"
#include "core/parallel.hpp"
#include "core/skinny.hpp"

namespace flatcore {

namespace {

template <class T>
void check_rows(ConstMatrixView<T> z, Index dimension, const char* what) {
    require(z.cols == dimension, what, " have ", z.cols, " entries, expected ", dimension);
    require(dimension <= 1 || z.rows == 0 || z.col_stride == 1, "each of the ", what, " must be contiguous");
}

// Rows [first, first + count) with the homogeneous column behind the body.
template <class T>
Matrix<T> with_column(const AffineRows<T>& rows, Index first, Index count) {
    const Index d = rows.body.cols();
    Matrix<T> out(count, d + 1);
    out.view().col_block(0, d).eigen() = rows.body.view().row_block(first, count).eigen();
    for (Index i = 0; i < count; ++i) out.view()(i, d) = rows.column[static_cast<std::size_t>(first + i)];
    return out;
}

// Those rows as one side of a layer, `dim` wide: the body itself, or a copy in `storage` with the column.
template <class T>
ConstMatrixView<T> side(const AffineRows<T>& rows, Index first, Index count, Index dim, Matrix<T>& storage) {
    if (dim == rows.body.cols()) return rows.body.view().row_block(first, count);
    storage = with_column(rows, first, count);
    return static_cast<const Matrix<T>&>(storage).view();
}

// T of H_1 ⋯ H_c = I − V T Vᵀ, H_i = I − τ_i v_i v_iᵀ.
Eigen::MatrixXd wy_factor(const Eigen::MatrixXd& V, const Eigen::VectorXd& tau) {
    Eigen::MatrixXd out = Eigen::MatrixXd::Zero(V.cols(), V.cols());
    for (Index j = 0; j < V.cols(); ++j) {
        const Eigen::VectorXd overlaps = V.leftCols(j).transpose() * V.col(j);
        out.col(j).head(j) = -tau(j) * (out.topLeftCorner(j, j) * overlaps);
        out(j, j) = tau(j);
    }
    return out;
}

template <class T>
TransposeQr<T> transpose_qr(ConstMatrixView<T> rows) {
    if (rows.rows >= rows.cols) {
        TransposeQr<T> out(rows.cols, 0, rows.cols, rows.rows);
        out.R.view().eigen() = rows.transposed().eigen();
        return out;
    }
    const Eigen::MatrixXd columns = rows.eigen().template cast<double>().transpose();
    const Eigen::HouseholderQR<Eigen::MatrixXd> qr(columns);
    const Index c = columns.cols();
    TransposeQr<T> out(rows.cols, c, c, c);
    const Eigen::MatrixXd V = qr.matrixQR().leftCols(c).template triangularView<Eigen::UnitLower>();
    out.Y.view().eigen() = V.transpose().cast<T>();
    out.Z.view().eigen() = (wy_factor(V, qr.hCoeffs()) * V.transpose()).cast<T>();
    out.R.view().eigen() =
        qr.matrixQR().topRows(c).template triangularView<Eigen::Upper>().toDenseMatrix().template cast<T>();
    return out;
}

// rows ← rows − (rows Aᵀ) B
template <class T>
void reflect(const Matrix<T>& A, const Matrix<T>& B, MatrixView<T> rows, RunControl& control) {
    if (A.rows() == 0 || rows.rows == 0) return;
    Matrix<T> along(rows.rows, A.rows());
    multiply<T>(T(1), rows, A.view().transposed(), T(0), along.view(), control);
    const ConstMatrixView<T> coefficients = along.view();
    multiply<T>(T(-1), coefficients, B.view(), T(1), rows, control);
}

// rows Q and rows Qᵀ in place
template <class T>
void rotate(const TransposeQr<T>& qr, MatrixView<T> rows, RunControl& control) {
    reflect(qr.Y, qr.Z, rows, control);
}
template <class T>
void rotate_back(const TransposeQr<T>& qr, MatrixView<T> rows, RunControl& control) {
    reflect(qr.Z, qr.Y, rows, control);
}

// Columns [first, first + count) of Q as rows.
template <class T>
Matrix<T> basis_rows(const TransposeQr<T>& qr, Index first, Index count, RunControl& control) {
    Matrix<T> out = Matrix<T>::zeros(count, qr.dim);
    for (Index i = 0; i < count; ++i) out.view()(i, first + i) = T(1);
    rotate_back(qr, out.view(), control);
    return out;
}

template <class U, class T>
Matrix<T> cast(const Matrix<U>& A) {
    Matrix<T> out(A.rows(), A.cols());
    out.view().eigen() = A.view().eigen().template cast<T>();
    return out;
}

template <class U, class T>
TransposeQr<T> cast(const TransposeQr<U>& qr) {
    TransposeQr<T> out;
    out.Y = cast<U, T>(qr.Y);
    out.Z = cast<U, T>(qr.Z);
    out.R = cast<U, T>(qr.R);
    out.dim = qr.dim;
    return out;
}

}  // namespace

template <class T>
ReducedHessian<T>::ReducedHessian(std::shared_ptr<const ChainHessian<T>> full, Curvature curvature, RunControl& control)
    : full_(std::move(full)) {
    require(!full_->far_.empty(), "set_loss_gradient comes before the reduced Hessian");
    const bool curved = curvature == Curvature::hessian && !full_->at_interpolation();
    for (Index step = 0; step < full_->chain().depth(); ++step) {
        pieces_.push_back(make_piece(full_->crossing(step), curved, dimension_));
        dimension_ += pieces_.back().s_size() + pieces_.back().e_size();
        control.checkpoint();
    }
}

template <class T>
template <class U>
ReducedHessian<T>::ReducedHessian(const ReducedHessian<U>& other, std::shared_ptr<const ChainHessian<T>> full)
    : full_(std::move(full)), dimension_(other.dimension_) {
    for (const auto& piece : other.pieces_)
        pieces_.push_back({piece.layer, piece.from, piece.to, cast<U, T>(piece.left), cast<U, T>(piece.right),
                           cast<U, T>(piece.b), piece.offset});
}

template <class T>
typename ReducedHessian<T>::Piece ReducedHessian<T>::make_piece(const Crossing& at, bool curved, Index offset) const {
    const Chain& chain = full_->chain();
    const Index m = full_->narrow_width(), extra = chain.layer(at.layer).bias ? 1 : 0;
    const bool output = full_->end_ == NarrowEnd::output;
    const Index left = chain.dim(at.from) + (output ? 0 : extra), right = chain.dim(at.to) + (output ? extra : 0);
    Matrix<T> a_storage, b_storage;
    Piece piece;
    piece.layer = at.layer;
    piece.from = at.from;
    piece.to = at.to;
    piece.offset = offset;
    piece.left = transpose_qr(side(full_->level(full_->near_, at.from), 0, m, left, a_storage));
    piece.b = Matrix<T>(curved ? m : 0, right);
    if (curved) piece.b.view().eigen() = side(full_->level(full_->far_, at.to), 0, m, right, b_storage).eigen();
    if (curved && piece.left.complement() > 0) {
        piece.right = transpose_qr(static_cast<const Matrix<T>&>(piece.b).view());
    } else {
        piece.right = TransposeQr<T>(right, 0, 0, m);  // no E
    }
    return piece;
}

template <class T>
const typename ReducedHessian<T>::Piece& ReducedHessian<T>::piece_of(Index layer) const {
    const Index depth = full_->chain().depth();
    require(layer >= 1 && layer <= depth, "layer ", layer, " of ", depth);
    const Index step = full_->end_ == NarrowEnd::output ? depth - layer : layer - 1;
    return pieces_[static_cast<std::size_t>(step)];
}

template <class T>
AffineRows<T> ReducedHessian<T>::zero_rows(Index rows, Index level) const {
    AffineRows<T> out(rows, full_->chain().dim(level), full_->chain().homogeneous());
    out.body.view().eigen().setZero();
    return out;
}

// body(step, control) for every piece, which is two products or more: side by side where there is work for another
// thread, but not where one product alone would keep more threads busy. One factor of each product has at most `rows`
// rows, so that the skinny kernels take it and no BLAS is called in the parallel region.
template <class T>
template <class Body>
void ReducedHessian<T>::for_pieces(Index rows, RunControl& control, const Body& body) const {
    Index widest = 0;
    for (const Piece& piece : pieces_) widest = std::max({widest, piece.left.dim, piece.right.dim});
    const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(full_->narrow_width() * widest);
    const Index count = static_cast<Index>(pieces_.size());
    const Index side_by_side = parallel_pieces(count, static_cast<Index>(kFlopsPerThread / (2.0 * flops + 1.0)) + 1);
    if (rows > kSkinnyRows || flops >= kFlopsPerThread * static_cast<double>(side_by_side)) {
        for (std::size_t step = 0; step < pieces_.size(); ++step) body(step, control);
        return;
    }
    parallel_pieces_of(count, side_by_side, [&](Index, Index first, Index last) {
        RunControl quiet;
        for (Index step = first; step < last; ++step) body(static_cast<std::size_t>(step), quiet);
    });
    control.checkpoint();
}

// a D = Rᵀ S for every direction.
template <class T>
AffineRows<T> ReducedHessian<T>::near_direction(const Piece& piece, ConstMatrixView<T> z, RunControl& control) const {
    const Index m = full_->narrow_width(), body = full_->chain().dim(piece.to);
    AffineRows<T> out(z.rows * m, body, full_->chain().homogeneous());
    const ConstMatrixView<T> R = piece.left.R.view();
    for (Index i = 0; i < z.rows; ++i) {
        const auto S = s_block(piece, z.row_block(i, 1).data);
        multiply<T>(T(1), R.transposed(), S.col_block(0, body), T(0), out.body.view().row_block(i * m, m), control);
        if (piece.right.dim == body) continue;
        const MatrixView<T> column(out.column.data() + i * m, m, 1);
        column.eigen() = R.transposed().eigen().lazyProduct(S.col_block(body, 1).eigen());
    }
    return out;
}

// da[s] at the `from` level of step s; the last entry is the change of the end-to-end matrix.
template <class T>
std::vector<AffineRows<T>> ReducedHessian<T>::near_sweep(ConstMatrixView<T> z, RunControl& control) const {
    const Index rows = z.rows * full_->narrow_width();
    std::vector<AffineRows<T>> da(pieces_.size() + 1);
    da.front() = zero_rows(rows, full_->start_level());
    for_pieces(rows, control,
               [&](std::size_t step, RunControl& quiet) { da[step + 1] = near_direction(pieces_[step], z, quiet); });
    for (std::size_t step = 1; step < pieces_.size(); ++step)
        add_rows(full_->cross(pieces_[step].layer, da[step], true, control), da[step + 1]);
    return da;
}

// S' [+]= R σ for every direction.
template <class T>
void ReducedHessian<T>::write_s(const Piece& piece, const AffineRows<T>& sigma, bool add, MatrixView<T> out,
                                RunControl& control) const {
    const Index m = full_->narrow_width();
    Matrix<T> storage;
    const ConstMatrixView<T> rows = side(sigma, 0, sigma.rows(), piece.right.dim, storage);
    for (Index i = 0; i < out.rows; ++i)
        multiply<T>(T(1), piece.left.R.view(), rows.row_block(i * m, m), add ? T(1) : T(0),
                    s_block(piece, out.row_block(i, 1).data), control);
}

// S' = αᵀ b, E'ᵀ = T β with [α, β] = da Q.
template <class T>
void ReducedHessian<T>::write_curved(const Piece& piece, const AffineRows<T>& da, MatrixView<T> out,
                                     RunControl& control) const {
    const Index m = full_->narrow_width(), r = piece.left.rank();
    Matrix<T> storage;
    Matrix<T> rotated(da.rows(), piece.left.dim);
    rotated.view().eigen() = side(da, 0, da.rows(), piece.left.dim, storage).eigen();
    rotate(piece.left, rotated.view(), control);
    const ConstMatrixView<T> rows = rotated.view();
    for (Index i = 0; i < out.rows; ++i) {
        T* target = out.row_block(i, 1).data;
        const ConstMatrixView<T> own = rows.row_block(i * m, m);
        multiply<T>(T(1), own.col_block(0, r).transposed(), piece.b.view(), T(0), s_block(piece, target), control);
        if (piece.e_size() > 0)
            multiply<T>(T(1), piece.right.R.view(), own.col_block(r, piece.left.complement()), T(0),
                        e_block(piece, target), control);
    }
}

// b Dᵀ = [b Sᵀ, Tᵀ Eᵀ] Qᵀ for every direction.
template <class T>
Matrix<T> ReducedHessian<T>::far_direction(const Piece& piece, ConstMatrixView<T> z, RunControl& control) const {
    const Index m = full_->narrow_width(), r = piece.left.rank(), rest = piece.left.complement();
    Matrix<T> rows(z.rows * m, piece.left.dim);
    for (Index i = 0; i < z.rows; ++i) {
        const T* own = z.row_block(i, 1).data;
        const MatrixView<T> target = rows.view().row_block(i * m, m);
        multiply<T>(T(1), piece.b.view(), s_block(piece, own).transposed(), T(0), target.col_block(0, r), control);
        multiply<T>(T(1), piece.right.R.view().transposed(), e_block(piece, own), T(0), target.col_block(r, rest),
                    control);
    }
    rotate_back(piece.left, rows.view(), control);
    return rows;
}

// From σ at the far end to the images; without `curved`, S' alone.
template <class T>
void ReducedHessian<T>::far_sweep(AffineRows<T> far_end, const Curved* curved, MatrixView<T> out,
                                  RunControl& control) const {
    const Index rows = far_end.rows();
    std::vector<Matrix<T>> from_direction(pieces_.size());
    if (curved)
        for_pieces(rows, control, [&](std::size_t step, RunControl& quiet) {
            write_curved(pieces_[step], curved->da[step], out, quiet);
            if (step > 0) from_direction[step] = far_direction(pieces_[step], curved->z, quiet);
        });
    std::vector<AffineRows<T>> sigma(pieces_.size());  // at the `to` levels; nothing lies beyond the narrow end
    sigma.back() = std::move(far_end);
    for (auto step = pieces_.size() - 1; step > 0; --step) {
        sigma[step - 1] = full_->cross(pieces_[step].layer, sigma[step], false, control);
        Matrix<T>& body = sigma[step - 1].body;
        if (curved) body.view().eigen() += from_direction[step].view().col_block(0, body.cols()).eigen();
    }
    for_pieces(rows, control, [&](std::size_t step, RunControl& quiet) {
        write_s(pieces_[step], sigma[step], curved != nullptr, out, quiet);
    });
}

template <class T>
void ReducedHessian<T>::product(ConstMatrixView<T> z, MatrixView<T> out, const LossHessian<T>& loss,
                                RunControl& control) const {
    check_rows<T>(z, dimension_, "reduced directions");
    check_rows<T>(out, dimension_, "reduced images");
    require(out.rows == z.rows, out.rows, " images of ", z.rows, " directions");
    if (z.rows == 0) return;
    const std::vector<AffineRows<T>> da = near_sweep(z, control);
    Matrix<T> far = full_->joined(da.back());
    loss(far.view(), z.rows);
    AffineRows<T> sigma = zero_rows(far.rows(), full_->far_level());
    full_->split(far.view(), sigma);
    const Curved curved{z, da};
    far_sweep(std::move(sigma), pieces_.front().b.rows() > 0 ? &curved : nullptr, out, control);
}

template <class T>
Matrix<T> ReducedHessian<T>::end_to_end_change(ConstMatrixView<T> z, RunControl& control) const {
    check_rows<T>(z, dimension_, "reduced directions");
    return full_->joined(near_sweep(z, control).back());
}

template <class T>
void ReducedHessian<T>::pull_back(ConstMatrixView<T> far_rows, MatrixView<T> out, RunControl& control) const {
    check_rows<T>(out, dimension_, "reduced images");
    require(far_rows.rows == out.rows * full_->narrow_width() && far_rows.cols == full_->far_width(), "far rows are ",
            far_rows.rows, "x", far_rows.cols, ", expected ", out.rows * full_->narrow_width(), "x",
            full_->far_width());
    out.eigen().setZero();
    AffineRows<T> sigma = zero_rows(far_rows.rows, full_->far_level());
    full_->split(far_rows, sigma);
    far_sweep(std::move(sigma), nullptr, out, control);
}

// leftᵀ right as a layer's weight and bias: the side below the layer carries the homogeneous column.
template <class T>
void ReducedHessian<T>::write_block(const Piece& piece, ConstMatrixView<T> left, ConstMatrixView<T> right,
                                    MatrixView<T> weight, T* bias, RunControl& control) const {
    const bool output = full_->end_ == NarrowEnd::output;
    const ConstMatrixView<T> above = output ? left : right, below = output ? right : left;
    const Chain& chain = full_->chain();
    const Index rows = chain.dim(piece.layer), cols = chain.dim(piece.layer - 1);
    require(weight.rows == rows && weight.cols == cols && (bias != nullptr) == (below.cols > cols), "layer ",
            piece.layer, " is ", rows, "x", cols, ", not ", weight.rows, "x", weight.cols);
    multiply<T>(T(1), above.transposed(), below.col_block(0, cols), T(0), weight, control);
    if (bias)
        MatrixView<T>(bias, rows, 1).eigen() = above.transposed().eigen().lazyProduct(below.col_block(cols, 1).eigen());
}

// D = [Q_r, Q_⊥ E] [S; P_ρᵀ]
template <class T>
void ReducedHessian<T>::lift_layer(Index layer, const T* z, MatrixView<T> weight, T* bias, RunControl& control) const {
    const Piece& piece = piece_of(layer);
    const Index r = piece.left.rank(), rho = piece.e_size() > 0 ? piece.right.rank() : 0;
    Matrix<T> left = Matrix<T>::zeros(r + rho, piece.left.dim), right(r + rho, piece.right.dim);
    left.view().row_block(0, r).col_block(0, r).eigen().setIdentity();
    right.view().row_block(0, r).eigen() = s_block(piece, z).eigen();
    if (rho > 0) {
        left.view().row_block(r, rho).col_block(r, piece.left.complement()).eigen() = e_block(piece, z).eigen();
        right.view().row_block(r, rho).eigen() = basis_rows(piece.right, 0, rho, control).view().eigen();
    }
    rotate_back(piece.left, left.view(), control);
    const ConstMatrixView<T> near = left.view(), far = right.view();
    write_block(piece, near, far, weight, bias, control);
}

template <class T>
Index ReducedHessian<T>::num_annihilated(Index layer) const {
    const Piece& piece = piece_of(layer);
    return piece.left.complement() * piece.right.complement();
}

template <class T>
void ReducedHessian<T>::annihilated(Index layer, Index index, MatrixView<T> weight, T* bias,
                                    RunControl& control) const {
    require(index >= 0 && index < num_annihilated(layer), "direction ", index, " of ", num_annihilated(layer));
    const Piece& piece = piece_of(layer);
    const Index a = index / piece.right.complement(), c = index % piece.right.complement();
    const Matrix<T> u = basis_rows(piece.left, piece.left.rank() + a, 1, control);
    const Matrix<T> w = basis_rows(piece.right, piece.right.rank() + c, 1, control);
    write_block(piece, u.view(), w.view(), weight, bias, control);
}

template <class T>
void ReducedHessian<T>::lift(ConstMatrixView<T> z, MatrixView<T> directions, RunControl& control) const {
    const Chain& chain = full_->chain();
    check_rows<T>(z, dimension_, "reduced directions");
    check_rows<T>(directions, chain.num_parameters(), "directions");
    require(z.rows == directions.rows, z.rows, " reduced directions, ", directions.rows, " full ones");
    for (Index i = 0; i < z.rows; ++i)
        for (Index j = 1; j <= chain.depth(); ++j) {
            T* own = directions.row_block(i, 1).data;
            T* bias = chain.layer(j).bias ? own + chain.bias_offset(j) : nullptr;
            lift_layer(j, z.row_block(i, 1).data, chain.weight_block(own, j), bias, control);
        }
}

// S = Q_rᵀ D, Eᵀ = (P_ρᵀ Dᵀ) Q_⊥: D is crossed from either side as a direction is in a full product.
template <class T>
void ReducedHessian<T>::project(ConstMatrixView<T> directions, MatrixView<T> z, RunControl& control) const {
    const Chain& chain = full_->chain();
    check_rows<T>(z, dimension_, "reduced directions");
    check_rows<T>(directions, chain.num_parameters(), "directions");
    require(z.rows == directions.rows, z.rows, " reduced directions, ", directions.rows, " full ones");
    const auto crossed = [&](const Piece& piece, const Matrix<T>& rows, const T* direction, bool near) {
        AffineRows<T> in(rows.rows(), chain.dim(near ? piece.from : piece.to), chain.homogeneous());
        full_->split(rows.view(), in);
        AffineRows<T> out = zero_rows(rows.rows(), near ? piece.to : piece.from), none(0, 0, false);
        if ((full_->end_ == NarrowEnd::output) == near)
            add_direction(chain, piece.layer, in, none, direction, 0, out, none, control);
        else
            add_direction(chain, piece.layer, none, in, direction, 0, none, out, control);
        return out;
    };
    for (const Piece& piece : pieces_) {
        const Index r = piece.left.rank(), rest = piece.left.complement();
        const Matrix<T> Q = basis_rows(piece.left, 0, r, control);
        const Matrix<T> P = basis_rows(piece.right, 0, piece.e_size() > 0 ? piece.right.rank() : 0, control);
        for (Index i = 0; i < z.rows; ++i) {
            const T* direction = directions.row_block(i, 1).data;
            T* target = z.row_block(i, 1).data;
            Matrix<T> storage;
            const AffineRows<T> S = crossed(piece, Q, direction, true);
            s_block(piece, target).eigen() = side(S, 0, r, piece.right.dim, storage).eigen();
            if (piece.e_size() == 0) continue;
            const AffineRows<T> rows = crossed(piece, P, direction, false);
            Matrix<T> rotated(P.rows(), piece.left.dim);
            rotated.view().eigen() = side(rows, 0, P.rows(), piece.left.dim, storage).eigen();
            rotate(piece.left, rotated.view(), control);
            e_block(piece, target).eigen() = rotated.view().col_block(r, rest).eigen();
        }
    }
}

template class ReducedHessian<float>;
template class ReducedHessian<double>;
template ReducedHessian<float>::ReducedHessian(const ReducedHessian<double>&,
                                               std::shared_ptr<const ChainHessian<float>>);

}  // namespace flatcore
