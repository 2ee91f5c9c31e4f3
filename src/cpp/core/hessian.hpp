// Gradient, Hessian and Gauss–Newton products of L(W) = f(Φ̃ L) in the narrow-end form.
//
// Sources: docs/theory.md, sections "Gradient and Hessian" and "The narrow end".
//
// Rows start at the narrow end of the chain and sweep to the far end; the loss's gradient sweeps back. Levels are the
// chain's 0 … M, level j lying between layers j and j + 1.
//
//   narrow end = output (m = d_M):   near_M = I,   near_{j-1} = near_j W̃_j        (near_j = A_j, near_0 = Φ̃)
//                                    far_0 = G,    far_j = far_{j-1} W̃_jᵀ        (far_j = b_{j+1}ᵀ)
//   narrow end = input (m = rank L): near_0 = Lᵀ,  near_j = near_{j-1} W̃_jᵀ      (near_M = (Φ̃L)ᵀ)
//                                    far_M = Gᵀ,   far_{j-1} = far_j W̃_j
// with G the gradient of the loss at the far end. Both are one code: layer j is crossed `from` level a `to` level b,
// and block j of a parameter vector is a d_a × d_b matrix, transposed when the narrow end is the input.
//
//   gradient block:   near_aᵀ far_b
//   product:  1. near sweep  dnear_b = dnear_a·(link) + near_a·(D-link),  dnear = 0 at the narrow end; the far end
//                            of this sweep is dΦ̃ (or its transpose)
//                            and, from the same read of D, far_b·(D-link)ᵀ for step 3
//             2. σ = 𝓗[dΦ] at the far end, by the loss
//             3. far sweep   (HD)_j = near_aᵀ σ_b + dnear_aᵀ far_b,   σ_a = σ_b·(link)ᵀ + far_b·(D-link)ᵀ
// The Gauss–Newton product leaves out the terms with `far`; so does the Hessian where G = 0.
//
// cost    12·m·P flops for one direction, less 12·m² d of an output layer m × d, where near = I is copied; traffic: D
//         once, W twice, HD once; k directions read W as often as one.
// memory  near, far: 2·m·Σd entries; a product of k directions: k·m·(2Σd + max d) more.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "core/chain.hpp"

namespace flatcore {

enum class NarrowEnd { output, input };
enum class Curvature { hessian, gauss_newton };

// 𝓗 at the far end for k stacked directions: `rows` is (k·m) × q, overwritten with its image. q counts the
// homogeneous column where the far end is the input.
template <class T>
using LossHessian = std::function<void(MatrixView<T> rows, Index directions)>;

// 𝓗 that multiplies rows by a symmetric matrix (q × q), which has to outlive it, as has the control.
template <class T>
LossHessian<T> matrix_loss(ConstMatrixView<T> matrix, RunControl& control);

template <class T>
class ReducedHessian;

template <class T>
class ChainHessian {
 public:
    // factor: Lᵀ (m × d_0, or d_0 + 1 with biases) for the input end; unused (empty) for the output end.
    ChainHessian(Chain chain, NarrowEnd end, ConstMatrixView<T> factor, RunControl& control);
    // The same partial products in another precision.
    template <class U>
    explicit ChainHessian(const ChainHessian<U>& other);
    ChainHessian(ChainHessian&&) = default;
    ChainHessian(const ChainHessian&) = delete;

    const Chain& chain() const { return chain_; }
    Index narrow_width() const { return level(near_, start_level()).rows(); }
    Index far_width() const;  // columns of the far end, the homogeneous one included

    // near at the far end: Φ̃ (m × q) or (Φ̃L)ᵀ (m × d_M).
    Matrix<T> end_to_end() const;
    // Sets G at the far end (m × far_width) and sweeps it back.
    void set_loss_gradient(ConstMatrixView<T> G, RunControl& control);
    bool at_interpolation() const { return loss_gradient_is_zero_; }

    void gradient(T* out, RunControl& control) const;
    // directions, out: k × P, row strides given; out must not overlap directions.
    void product(ConstMatrixView<T> directions, MatrixView<T> out, Curvature curvature, const LossHessian<T>& loss,
                 RunControl& control) const;

 private:
    template <class U>
    friend class ChainHessian;
    template <class U>
    friend class ReducedHessian;
    using Levels = std::vector<AffineRows<T>>;

    static const AffineRows<T>& level(const Levels& levels, Index l) { return levels[static_cast<std::size_t>(l)]; }
    Index start_level() const { return end_ == NarrowEnd::output ? chain_.depth() : 0; }
    Index far_level() const { return chain_.depth() - start_level(); }
    // The layer crossed at step s = 0 … M-1 of the near sweep, and the levels on its two sides.
    struct Crossing {
        Index layer, from, to;
    };
    Crossing crossing(Index step) const;
    AffineRows<T> cross(Index layer, const AffineRows<T>& X, bool near_sweep, RunControl& control) const;
    bool far_column_counts() const { return chain_.homogeneous() && end_ == NarrowEnd::output; }
    Matrix<T> joined(const AffineRows<T>& rows) const;
    void split(ConstMatrixView<T> joined_rows, AffineRows<T>& rows) const;
    // Block `layer` of `vector` = leftᵀ right, left at level `from`, right at level `to`.
    void write_block(const Crossing& at, const AffineRows<T>& left, const AffineRows<T>& right, T* vector,
                     RunControl& control) const;
    // Whether near = I at the narrow end, so that products with it are copies.
    bool starts_with_identity() const { return end_ == NarrowEnd::output; }
    AffineRows<T> directions_at(Index layer, ConstMatrixView<T> directions) const;
    void write_rows(Index layer, const AffineRows<T>& rows, Index first, T* vector) const;

    Chain chain_;
    NarrowEnd end_;
    Levels near_, far_;
    bool loss_gradient_is_zero_ = true;
};

}  // namespace flatcore
