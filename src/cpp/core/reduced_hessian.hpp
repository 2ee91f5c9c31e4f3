// The Hessian on the subspace that holds every eigenvector of nonzero eigenvalue: exact, with N ≪ P unknowns.
//
// Source: docs/theory.md, "The reduced Hessian". The block of a layer, seen from the narrow end (core/hessian.hpp), is
// a matrix with the near rows a (m × left) on one side and the far rows b (m × right) on the other; where the layer has
// a bias the side that carries the homogeneous column is one entry longer. Every image of the Hessian is aᵀ(·) + (·)b.
// With Householder QR aᵀ = Q [R; 0] and bᵀ = P [T; 0], Q and P orthogonal, r and ρ the ranks that a thin QR shows,
//
//   D = Q [ S      ]        S: r × right,  E: (left − r) × ρ
//         [ E Pᵀ_ρ ]
//
// with P_ρ the first ρ columns. The vectors z = (S, Eᵀ, next layer …), row-major, have the norms of the directions they
// stand for, whatever z: lifting is an isometry. In these coordinates
//
//   a D = Rᵀ S,   (b Dᵀ) Q = [b Sᵀ, Tᵀ Eᵀ],   S' = R σ + αᵀ b,   E'ᵀ = T β   with [α, β] = da Q,
//
// da and σ swept through the chain as in a full product. There is no E for the Gauss–Newton matrix or where the loss
// gradient is zero; Q = I where m ≥ left. Directions Q [0; u wᵀ] with w ⟂ P_ρ are annihilated: P − N of them, by layer.
//
// cost    4·m·P flops a direction, each weight read twice; k directions read the weights as often as one. What is done
//         beside that, layer by layer, is shared out to threads by layers, before and behind the two sweeps.
// memory  5·m·Σd entries; vectors of N = Σ r·right + ρ·(left − r) entries; 3·k·m·Σd in a product.
#pragma once

#include <memory>
#include <vector>

#include "core/hessian.hpp"

namespace flatcore {

// rowsᵀ = Q [R; 0] with orthogonal Q = I − Yᵀ Z (compact WY form).
template <class T>
struct TransposeQr {
    Matrix<T> Y, Z;  // reflectors × dim, rows as the kernels stream them; none where Q = I
    Matrix<T> R;     // rank × m
    Index dim = 0;

    TransposeQr() = default;
    TransposeQr(Index dim_, Index reflectors, Index rank, Index m)
        : Y(reflectors, dim_), Z(reflectors, dim_), R(rank, m), dim(dim_) {}
    Index rank() const { return R.rows(); }
    Index complement() const { return dim - rank(); }
};

template <class T>
class ReducedHessian {
 public:
    // full: with its loss gradient set. Factors are computed in float64 whatever T.
    ReducedHessian(std::shared_ptr<const ChainHessian<T>> full, Curvature curvature, RunControl& control);
    // The same coordinates in another precision: `full` is `other.full()` in that precision.
    template <class U>
    ReducedHessian(const ReducedHessian<U>& other, std::shared_ptr<const ChainHessian<T>> full);
    ReducedHessian(ReducedHessian&&) = default;
    ReducedHessian(const ReducedHessian&) = delete;

    Index dimension() const { return dimension_; }
    const ChainHessian<T>& full() const { return *full_; }

    // Rows of z and out: k × N, each contiguous.
    void product(ConstMatrixView<T> z, MatrixView<T> out, const LossHessian<T>& loss, RunControl& control) const;
    // The change of the end-to-end matrix along k directions, as (k·m) × far_width rows, and the adjoint of that.
    Matrix<T> end_to_end_change(ConstMatrixView<T> z, RunControl& control) const;
    void pull_back(ConstMatrixView<T> far_rows, MatrixView<T> out, RunControl& control) const;

    // The full directions (k × P) that reduced ones stand for, and the adjoint.
    void lift(ConstMatrixView<T> z, MatrixView<T> directions, RunControl& control) const;
    void project(ConstMatrixView<T> directions, MatrixView<T> z, RunControl& control) const;
    // One layer of one lifted direction: weight d_j × d_{j-1}, bias d_j (null where the layer has none).
    void lift_layer(Index layer, const T* z, MatrixView<T> weight, T* bias, RunControl& control) const;
    // Orthonormal directions of one layer outside the subspace, annihilated: their number, and number `index` of them.
    Index num_annihilated(Index layer) const;
    void annihilated(Index layer, Index index, MatrixView<T> weight, T* bias, RunControl& control) const;

 private:
    template <class U>
    friend class ReducedHessian;
    using Crossing = typename ChainHessian<T>::Crossing;

    struct Piece {
        Index layer, from, to;
        TransposeQr<T> left, right;  // of a and of b
        Matrix<T> b;                 // m × right; without rows where there are no terms in b
        Index offset;                // of S in z, E behind it

        Index s_size() const { return left.rank() * right.dim; }
        Index e_size() const { return left.complement() * right.rank(); }
    };
    // What the terms with b need of the near sweep.
    struct Curved {
        ConstMatrixView<T> z;
        const std::vector<AffineRows<T>>& da;
    };

    Piece make_piece(const Crossing& at, bool curved, Index offset) const;
    const Piece& piece_of(Index layer) const;
    template <class U>
    static MatrixView<U> s_block(const Piece& piece, U* z) {
        return {z + piece.offset, piece.left.rank(), piece.right.dim};
    }
    template <class U>
    static MatrixView<U> e_block(const Piece& piece, U* z) {  // Eᵀ
        return {z + piece.offset + piece.s_size(), piece.right.rank(), piece.left.complement()};
    }
    AffineRows<T> zero_rows(Index rows, Index level) const;
    template <class Body>
    void for_pieces(Index rows, RunControl& control, const Body& body) const;
    AffineRows<T> near_direction(const Piece& piece, ConstMatrixView<T> z, RunControl& control) const;
    Matrix<T> far_direction(const Piece& piece, ConstMatrixView<T> z, RunControl& control) const;
    std::vector<AffineRows<T>> near_sweep(ConstMatrixView<T> z, RunControl& control) const;
    void far_sweep(AffineRows<T> far_end, const Curved* curved, MatrixView<T> out, RunControl& control) const;
    void write_s(const Piece& piece, const AffineRows<T>& sigma, bool add, MatrixView<T> out,
                 RunControl& control) const;
    void write_curved(const Piece& piece, const AffineRows<T>& da, MatrixView<T> out, RunControl& control) const;
    void write_block(const Piece& piece, ConstMatrixView<T> left, ConstMatrixView<T> right, MatrixView<T> weight,
                     T* bias, RunControl& control) const;

    std::shared_ptr<const ChainHessian<T>> full_;
    std::vector<Piece> pieces_;  // in the order of the near sweep
    Index dimension_ = 0;
};

}  // namespace flatcore
