#include "core/chain.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/errors.hpp"
#include "core/skinny.hpp"

namespace flatcore {

namespace {
template <class T>
using Vector = Eigen::Matrix<T, Eigen::Dynamic, 1>;
template <class T>
Eigen::Map<const Vector<T>> as_vector(const T* data, std::size_t size) {
    return {data, static_cast<Index>(size)};
}
template <class T>
Eigen::Map<Vector<T>> as_vector(std::vector<T>& values) {
    return {values.data(), static_cast<Index>(values.size())};
}
}  // namespace

Chain::Chain(std::vector<Layer> layers) : layers_(std::move(layers)) {
    require(!layers_.empty(), "a chain needs at least one layer");
    offsets_.push_back(0);
    for (Index j = 1; j <= depth(); ++j) {
        const Layer& current = layer(j);
        require(current.weight.rows > 0 && current.weight.cols > 0, "layer ", j, " is empty");
        require(j == 1 || current.weight.cols == dim(j - 1), "layer ", j, " takes ", current.weight.cols,
                " inputs, the layer before it gives ", dim(j - 1));
        require(!current.skip || current.weight.rows == current.weight.cols, "layer ", j,
                " has a skip link, so it must be square");
        homogeneous_ = homogeneous_ || current.bias != nullptr;
        offsets_.push_back(offsets_.back() + dim(j) * dim(j - 1) + (current.bias ? dim(j) : 0));
    }
}

Index Chain::dim(Index level) const { return level == 0 ? layers_.front().weight.cols : layer(level).weight.rows; }

std::uint64_t Chain::fingerprint() const {
    std::uint64_t hash = 0xCBF29CE484222325ULL;  // FNV-1a over the entries' bits
    const auto absorb = [&](std::uint64_t bits) { hash = (hash ^ bits) * 0x100000001B3ULL; };
    const auto sample = [&](Scalar scalar, const void* data, Index rows, Index cols, Index row_stride,
                            Index col_stride) {
        const Index size = rows * cols, step = std::max<Index>(1, size / kSamples);
        for (Index t = 0; t < size; t += step) {
            const Index offset = (t / cols) * row_stride + (t % cols) * col_stride;
            std::uint64_t bits = 0;
            std::memcpy(&bits, static_cast<const char*>(data) + static_cast<std::size_t>(offset) * size_of(scalar),
                        size_of(scalar));
            absorb(bits);
        }
    };
    for (const Layer& layer : layers_) {
        const StoredMatrix& W = layer.weight;
        sample(W.scalar, W.data, W.rows, W.cols, W.row_stride, W.col_stride);
        if (layer.bias) sample(layer.bias_scalar(), layer.bias, W.rows, 1, 1, 1);
    }
    return hash;
}

template <class T>
Matrix<T> Chain::link(Index j) const {
    Matrix<T> out = layer(j).weight.converted<T>();
    if (layer(j).skip) out.view().eigen().diagonal().array() += T(1);
    return out;
}

template <class T>
std::vector<T> Chain::bias(Index j) const {
    const Layer& source = layer(j);
    if (!source.bias) return {};
    const auto size = static_cast<std::size_t>(dim(j));
    if (source.bias_scalar() == Scalar::f32) {
        const auto* data = static_cast<const float*>(source.bias);
        return {data, data + size};
    }
    const auto* data = static_cast<const double*>(source.bias);
    std::vector<T> out(size);
    for (std::size_t i = 0; i < size; ++i) out[i] = static_cast<T>(data[i]);
    return out;
}

template <class T>
AffineRows<T> move_down(const Chain& chain, Index j, const AffineRows<T>& X, RunControl& control) {
    AffineRows<T> out(X.rows(), chain.dim(j - 1), chain.homogeneous());
    const Layer& layer = chain.layer(j);
    if (layer.skip) out.body.view().eigen() = X.body.view().eigen();
    multiply_stored<T>(X.body.view(), layer.weight, layer.skip ? T(1) : T(0), out.body.view(), control);
    out.column = X.column;
    if (layer.bias) {
        const std::vector<T> b = chain.bias<T>(j);
        as_vector(out.column).noalias() += X.body.view().eigen() * as_vector(b.data(), b.size());
    }
    return out;
}

template <class T>
AffineRows<T> move_up(const Chain& chain, Index j, const AffineRows<T>& X, RunControl& control) {
    AffineRows<T> out(X.rows(), chain.dim(j), chain.homogeneous());
    const Layer& layer = chain.layer(j);
    if (layer.skip) out.body.view().eigen() = X.body.view().eigen();
    multiply_stored<T>(X.body.view(), layer.weight.transposed(), layer.skip ? T(1) : T(0), out.body.view(), control);
    out.column = X.column;
    if (layer.bias) {
        const std::vector<T> b = chain.bias<T>(j);
        out.body.view().eigen().noalias() +=
            as_vector(X.column.data(), X.column.size()) * as_vector(b.data(), b.size()).transpose();
    }
    return out;
}

template <class T>
void add_direction(const Chain& chain, Index j, const AffineRows<T>& X, const AffineRows<T>& Y, const T* direction,
                   Index first, AffineRows<T>& down, AffineRows<T>& up, RunControl& control) {
    const auto D = chain.weight_block(direction, j);
    const auto below = down.body.view().row_block(X.rows() > 0 ? first : 0, X.rows());
    const auto above = up.body.view().row_block(Y.rows() > 0 ? first : 0, Y.rows());
    if (X.rows() > 0 && Y.rows() > 0 && std::max(X.rows(), Y.rows()) <= kSkinnyRows) {
        skinny_pair<T>(X.body.view(), Y.body.view(), D, below, above, control);
    } else {
        if (X.rows() > 0) multiply<T>(T(1), X.body.view(), D, T(1), below, control);
        if (Y.rows() > 0) multiply<T>(T(1), Y.body.view(), D.transposed(), T(1), above, control);
    }
    if (!chain.layer(j).bias) return;
    const auto delta = as_vector(direction + chain.bias_offset(j), static_cast<std::size_t>(chain.dim(j)));
    if (X.rows() > 0) as_vector(down.column).segment(first, X.rows()).noalias() += X.body.view().eigen() * delta;
    if (Y.rows() > 0) above.eigen().noalias() += as_vector(Y.column.data(), Y.column.size()) * delta.transpose();
}

#define FLATCORE_INSTANTIATE(T)                                                                                      \
    template Matrix<T> Chain::link<T>(Index) const;                                                                  \
    template std::vector<T> Chain::bias<T>(Index) const;                                                             \
    template AffineRows<T> move_down<T>(const Chain&, Index, const AffineRows<T>&, RunControl&);                     \
    template AffineRows<T> move_up<T>(const Chain&, Index, const AffineRows<T>&, RunControl&);                       \
    template void add_direction<T>(const Chain&, Index, const AffineRows<T>&, const AffineRows<T>&, const T*, Index, \
                                   AffineRows<T>&, AffineRows<T>&, RunControl&);
FLATCORE_INSTANTIATE(float)
FLATCORE_INSTANTIATE(double)
#undef FLATCORE_INSTANTIATE

}  // namespace flatcore
