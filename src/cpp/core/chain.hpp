// The chain: Φ̃ = W̃_M ⋯ W̃_1, and how rows travel through one of its links.
//
//   layer j = 1 … M:  W_j: d_j × d_{j-1}, b_j: d_j or absent, skip: the link is I + W_j (square only).
//   Homogeneous coordinates where any layer has a bias: W̃_j = [[W_j, b_j], [0, 1]], the last without its bottom row.
//
// A row block X̃ = (X, x) is m × d with an extra column x (absent without biases). The two moves are
//   down:  X̃ W̃_j  = (X W_j,              X b_j + x)
//   up:    X̃ W̃_jᵀ = (X W_jᵀ + x b_jᵀ,    x)
// and the same with a direction D̃_j = [[D_j, δ_j], [0, 0]] instead of W̃_j:
//   down:  X̃ D̃_j  = (X D_j, X δ_j)         up:  X̃ D̃_jᵀ = (X D_jᵀ + x δ_jᵀ, 0).
// The last layer needs no special case: at its output x is zero (down) or unused (up).
//
// Parameter vectors hold W_1, b_1, W_2, b_2, … row-major.
#pragma once

#include <cstdint>
#include <vector>

#include "core/matrix_product.hpp"
#include "core/run_control.hpp"
#include "core/views.hpp"

namespace flatcore {

struct Layer {
    StoredMatrix weight;  // W_j
    const void* bias =
        nullptr;  // b_j, contiguous, in the weight's precision but never less than f32; null where absent
    bool skip = false;

    Scalar bias_scalar() const { return weight.scalar == Scalar::f64 ? Scalar::f64 : Scalar::f32; }
};

// Non-owning: the weights must outlive the chain.
class Chain {
 public:
    explicit Chain(std::vector<Layer> layers);

    Index depth() const { return static_cast<Index>(layers_.size()); }
    Index dim(Index level) const;  // d_level, level = 0 … M
    const Layer& layer(Index j) const { return layers_[static_cast<std::size_t>(j - 1)]; }
    bool homogeneous() const { return homogeneous_; }
    Index num_parameters() const { return offsets_.back(); }
    Index weight_offset(Index j) const { return offsets_[static_cast<std::size_t>(j - 1)]; }
    Index bias_offset(Index j) const { return weight_offset(j) + dim(j) * dim(j - 1); }

    // Block j of a parameter vector.
    template <class T>
    MatrixView<T> weight_block(T* vector, Index j) const {
        return {vector + weight_offset(j), dim(j), dim(j - 1)};
    }

    // W_j as the link applies it (I + W_j for a skip layer), in precision T.
    template <class T>
    Matrix<T> link(Index j) const;
    template <class T>
    std::vector<T> bias(Index j) const;  // empty where absent

    // A hash of about kSamples evenly spread entries of every weight and bias (all of them in small layers): cheap
    // enough to take with every product, and any training step changes it.
    static constexpr Index kSamples = 1024;
    std::uint64_t fingerprint() const;

 private:
    std::vector<Layer> layers_;
    std::vector<Index> offsets_;
    bool homogeneous_ = false;
};

// m rows at one level of the chain; `column` has m entries in homogeneous coordinates and none otherwise.
template <class T>
struct AffineRows {
    Matrix<T> body;
    std::vector<T> column;

    AffineRows() = default;
    AffineRows(Index rows, Index dim, bool homogeneous)
        : body(rows, dim), column(homogeneous ? static_cast<std::size_t>(rows) : 0, T(0)) {}
    Index rows() const { return body.rows(); }
};

// X += D, columns included.
template <class T>
void add_rows(const AffineRows<T>& D, AffineRows<T>& X) {
    X.body.view().eigen() += D.body.view().eigen();
    for (std::size_t i = 0; i < X.column.size(); ++i) X.column[i] += D.column[i];
}

// X̃ W̃_j and X̃ W̃_jᵀ.  cost 2·m·d_j·d_{j-1} flops, one read of W_j.
template <class T>
AffineRows<T> move_down(const Chain& chain, Index j, const AffineRows<T>& X, RunControl& control);
template <class T>
AffineRows<T> move_up(const Chain& chain, Index j, const AffineRows<T>& X, RunControl& control);

// Rows [first, …) of `down` += X̃ D̃_j and of `up` += Ỹ D̃_jᵀ, D̃_j taken from a parameter vector and read once. Either of
// X, Y may have no rows.
template <class T>
void add_direction(const Chain& chain, Index j, const AffineRows<T>& X, const AffineRows<T>& Y, const T* direction,
                   Index first, AffineRows<T>& down, AffineRows<T>& up, RunControl& control);

}  // namespace flatcore
