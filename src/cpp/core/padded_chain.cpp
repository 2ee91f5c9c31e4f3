#include "core/padded_chain.hpp"

#include <algorithm>
#include <cmath>

namespace flatcore {

namespace {

constexpr int kMostSquarings = 40;

template <class T>
std::vector<AlignedArray<T>> arrays(Index count) {
    return std::vector<AlignedArray<T>>(static_cast<std::size_t>(count));
}

template <class T, class U>
void copy_entries(Index count, const U* from, T* to) {
    for (Index i = 0; i < count; ++i) to[i] = static_cast<T>(from[i]);
}

double square_sum(Index rows, Index cols, const double* A, Index ld) {
    double sum = 0.0;
    for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < cols; ++j) sum += A[i * ld + j] * A[i * ld + j];
    return sum;
}

template <class T>
void read_block(const T* data, Index rows, Index cols, Index row_stride, Index col_stride, double* out, Index ld) {
    if (col_stride == 1) {
        for (Index i = 0; i < rows; ++i) copy_entries(cols, data + i * row_stride, out + i * ld);
        return;
    }
    for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < cols; ++j) out[i * ld + j] = static_cast<double>(data[i * row_stride + j * col_stride]);
}

}  // namespace

ChainGeometry::ChainGeometry(const ManyChains& chains, int lanes_)
    : lanes(lanes_), depth(static_cast<Index>(chains.layers.size())) {
    const Index rank = static_cast<Index>(chains.roots.size()), outputs = chains.dims.back();
    output = outputs <= rank || rank == 0;
    m = output ? outputs : rank;
    m_padded = pad(m);
    width = chains.dims;
    if (output) std::reverse(width.begin(), width.end());
    offset.assign(1, 0);
    length = 0;
    parameters = 0;
    for (const Index e : width) padded.push_back(pad(e));
    for (std::size_t s = 1; s < width.size(); ++s) {
        offset.push_back(length);
        length += width[s - 1] * padded[s];
        parameters += width[s - 1] * width[s];
    }
    widest = *std::max_element(width.begin(), width.end());
}

template <class T>
PaddedChain<T>::PaddedChain(const ChainGeometry& g)
    : geometry_(g),
      links_(arrays<T>(g.depth + 1)),
      nears_(arrays<T>(g.depth + 1)),
      fars_(arrays<T>(g.depth + 1)),
      fars_turned_(arrays<T>(g.depth + 1)),
      dnears_(arrays<T>(g.depth + 1)),
      metric_(g.output ? g.padded.back() : 0),
      sigma_(g.m * g.pad(g.widest)),
      turned_(g.widest * g.m_padded),
      next_(g.widest * g.m_padded) {
    for (std::size_t s = 0; s < links_.size(); ++s) {
        if (s > 0 || !g.output) nears_[s] = AlignedArray<T>(g.m * g.padded[s]);
        if (s > 0) {
            links_[s] = AlignedArray<T>(g.width[s - 1] * g.padded[s]);
            fars_[s] = AlignedArray<T>(g.m * g.padded[s]);
            fars_turned_[s] = AlignedArray<T>(g.width[s] * g.m_padded);
            dnears_[s] = AlignedArray<T>(g.m * g.padded[s]);
        }
        link_pointers_.push_back(links_[s].data());
        near_pointers_.push_back(nears_[s].data());
        far_pointers_.push_back(fars_[s].data());
        turned_pointers_.push_back(fars_turned_[s].data());
        dnear_pointers_.push_back(dnears_[s].data());
    }
}

template <class T>
void PaddedChain<T>::round_from(const PaddedChain<double>& other) {
    const ChainGeometry& g = geometry_;
    const auto round = simd::small_chain<T>().round;
    for (Index s = 0; s <= g.depth; ++s) {
        const auto i = static_cast<std::size_t>(s);
        if (near(s)) round(g.m * g.padded[i], other.near(s), near(s));
        if (s == 0) continue;
        round(g.width[i - 1] * g.padded[i], other.link(s), link(s));
        round(g.m * g.padded[i], other.far(s), far(s));
        round(g.width[i] * g.m_padded, other.far_turned(s), far_turned(s));
    }
    if (g.output) round(g.padded.back(), other.metric(), metric());
    scale = static_cast<T>(other.scale);
}

template <class T>
simd::SmallChain<T> PaddedChain<T>::view(Curvature curvature) const {
    const ChainGeometry& g = geometry_;
    simd::SmallChain<T> out;
    out.depth = g.depth;
    out.m = g.m;
    out.m_padded = g.m_padded;
    out.width = g.width.data();
    out.padded = g.padded.data();
    out.offset = g.offset.data();
    out.link = link_pointers_.data();
    out.near = near_pointers_.data();
    if (curvature == Curvature::hessian) {
        out.far = far_pointers_.data();
        out.far_turned = turned_pointers_.data();
    }
    out.metric = g.output ? metric_.data() : nullptr;
    out.scale = scale;
    out.dnear = dnear_pointers_.data();
    out.sigma = sigma_.data();
    out.sigma_turned[0] = turned_.data();
    out.sigma_turned[1] = next_.data();
    return out;
}

ChainLoader::ChainLoader(const ManyChains& chains, const ChainGeometry& g)
    : stack_(chains),
      geometry_(g),
      kernels_(simd::small_chain<double>()),
      chain_(g),
      basis_(g.output ? g.widest * g.pad(g.widest) : 0),
      residual_(g.widest * g.pad(g.widest)),
      square_(g.widest * g.pad(g.widest)),
      other_(g.widest * g.pad(g.widest)),
      spare_(g.widest * g.pad(g.widest)),
      target_(g.m * g.padded.back()),
      roots_(g.padded.back()) {
    const Index d = chains.dims.front(), ld = g.pad(d), far_ld = g.padded.back();
    chain_.scale = 2.0 * chains.scale;
    const Index far = g.output ? static_cast<Index>(chains.roots.size()) : g.width.back();
    for (Index j = 0; j < far; ++j) {
        roots_.data()[j] = g.output ? chains.roots[static_cast<std::size_t>(j)] : 1.0;
        for (Index i = 0; i < g.m; ++i)
            target_.data()[i * far_ld + j] = g.output ? chains.target(i, j) : chains.target(j, i);
    }
    for (std::size_t j = 0; j < chains.roots.size(); ++j) {
        const double root = chains.roots[j];
        if (g.output) chain_.metric()[j] = chain_.scale * root * root;
        for (Index i = 0; i < d && !g.output; ++i)
            chain_.near(0)[static_cast<Index>(j) * ld + i] = root * chains.basis(i, static_cast<Index>(j));
    }
    for (Index i = 0; i < d && g.output; ++i)
        for (Index j = 0; j < d; ++j) basis_.data()[i * ld + j] = chains.basis(i, j);
}

bool ChainLoader::load(Index i) {
    read_links(i);
    sweep_near();
    return sweep_far();
}

void ChainLoader::read_links(Index i) {
    const ChainGeometry& g = geometry_;
    for (Index s = 1; s <= g.depth; ++s) {
        const StackedLayer& layer = stack_.layers[static_cast<std::size_t>(g.layer(s) - 1)];
        const auto level = static_cast<std::size_t>(s);
        const Index row = g.output ? layer.row_stride : layer.col_stride;
        const Index col = g.output ? layer.col_stride : layer.row_stride;
        const auto read = [&](auto* data) {
            read_block(data + i * layer.chain_stride, g.width[level - 1], g.width[level], row, col, chain_.link(s),
                       g.padded[level]);
        };
        if (layer.scalar == Scalar::f32)
            read(static_cast<const float*>(layer.data));
        else
            read(static_cast<const double*>(layer.data));
    }
    if (!g.output) return;
    const Index rows = g.width[static_cast<std::size_t>(g.depth - 1)], ld = g.padded.back();
    multiply(rows, ld, {chain_.link(g.depth), ld, 1, basis_.data(), ld, g.width.back()}, square_.data(), ld);
    std::copy_n(square_.data(), rows * ld, chain_.link(g.depth));
}

void ChainLoader::unrotate(const double* block, double* out) const {
    const ChainGeometry& g = geometry_;
    const Index rows = g.width[static_cast<std::size_t>(g.depth - 1)], d = g.width.back(), ld = g.padded.back();
    kernels_.turn(d, d, basis_.data(), ld, square_.data(), ld);
    multiply(rows, ld, {block, ld, 1, square_.data(), ld, d}, out, ld);
}

void ChainLoader::sweep_near() {
    const ChainGeometry& g = geometry_;
    for (Index s = 1; s <= g.depth; ++s) {
        const Index above = g.padded[static_cast<std::size_t>(s - 1)], ld = g.padded[static_cast<std::size_t>(s)];
        if (s == 1 && g.output)
            std::copy_n(chain_.link(1), g.m * ld, chain_.near(1));
        else
            multiply(g.m, ld,
                     {chain_.near(s - 1), above, 1, chain_.link(s), ld, g.width[static_cast<std::size_t>(s - 1)]},
                     chain_.near(s), ld);
    }
}

// R = ΦL − T (or its transpose), the gradient G = 2·scale·R [Lᵀ] at the far end, and the sweep back.
bool ChainLoader::sweep_far() {
    const ChainGeometry& g = geometry_;
    const Index M = g.depth, ld = g.padded.back();
    const double *near = chain_.near(M), *target = target_.data(), *roots = roots_.data();
    double* G = chain_.far(M);
    for (Index i = 0; i < g.m * ld; i += ld)
        for (Index j = 0; j < ld; ++j) G[i + j] = near[i + j] * roots[j] - target[i + j];
    residual_norm2_ = kernels_.dot(g.m * ld, G, G);
    for (Index i = 0; i < g.m * ld; i += ld)
        for (Index j = 0; j < ld; ++j) G[i + j] *= chain_.scale * roots[j];
    kernels_.turn(g.m, g.width.back(), G, ld, chain_.far_turned(M), g.m_padded);
    for (Index s = M; s > 1; --s) {
        const Index rows = g.width[static_cast<std::size_t>(s - 1)], links_ld = g.padded[static_cast<std::size_t>(s)];
        multiply(rows, g.m_padded,
                 {chain_.link(s), links_ld, 1, chain_.far_turned(s), g.m_padded, g.width[static_cast<std::size_t>(s)]},
                 chain_.far_turned(s - 1), g.m_padded);
        kernels_.turn(rows, g.m, chain_.far_turned(s - 1), g.m_padded, chain_.far(s - 1),
                      g.padded[static_cast<std::size_t>(s - 1)]);
    }
    return std::isfinite(residual_norm2_);
}

double ChainLoader::loss() const { return stack_.scale * (residual_norm2_ + stack_.constant); }

ChainMeasures ChainLoader::measure() {
    const ChainGeometry& g = geometry_;
    ChainMeasures out;
    out.gradient_norm = gradient_norm();
    out.spectral_norm = spectral_norm();
    out.gap.resize(static_cast<std::size_t>(g.depth - 1));
    out.relative_gap.resize(out.gap.size());
    for (Index s = 1; s < g.depth; ++s) {
        const auto at = static_cast<std::size_t>((g.output ? g.depth - s : s) - 1);
        balance(s, out.gap[at], out.relative_gap[at]);
    }
    return out;
}

// ‖(near_{s−1}ᵀ far_s)_s‖.
double ChainLoader::gradient_norm() {
    const ChainGeometry& g = geometry_;
    double sum = 0.0;
    for (Index s = 1; s <= g.depth; ++s) {
        const auto level = static_cast<std::size_t>(s);
        const Index rows = g.width[level - 1], ld = g.padded[level];
        if (!chain_.near(s - 1)) {
            sum += square_sum(g.m, g.width[level], chain_.far(s), ld);
            continue;
        }
        multiply(rows, ld, {chain_.near(s - 1), 1, g.padded[level - 1], chain_.far(s), ld, g.m}, square_.data(), ld);
        sum += square_sum(rows, g.width[level], square_.data(), ld);
    }
    return std::sqrt(sum);
}

// ‖Φ‖₂ from the Gram matrix of Φ, squared until it has rank one (or as many as the top is fold): its largest column is
// then a top singular vector.
double ChainLoader::spectral_norm() {
    const ChainGeometry& g = geometry_;
    const Index n = g.width.back(), ld = g.padded.back(), rows = g.width[0];
    const double* Phi = chain_.near(g.depth);
    if (!g.output) {  // near_M = (ΦL)ᵀ: multiply the links themselves
        double *current = other_.data(), *next = spare_.data();
        std::copy_n(chain_.link(1), rows * g.padded[1], current);
        for (std::size_t s = 2; s < g.width.size(); ++s) {
            multiply(rows, g.padded[s],
                     {current, g.padded[s - 1], 1, chain_.link(static_cast<Index>(s)), g.padded[s], g.width[s - 1]},
                     next, g.padded[s]);
            std::swap(current, next);
        }
        std::copy_n(current, rows * ld, residual_.data());
        Phi = residual_.data();
    }
    double *gram = square_.data(), *squared = other_.data();
    multiply(n, ld, {Phi, 1, ld, Phi, ld, rows}, gram, ld);
    double concentration = -1.0;
    for (int step = 0; step < kMostSquarings; ++step) {
        double trace = 0.0;
        for (Index i = 0; i < n; ++i) trace += gram[i * ld + i];
        if (!(trace > 0.0) || !std::isfinite(trace)) return trace;
        for (Index i = 0; i < n * ld; ++i) gram[i] /= trace;
        multiply(n, ld, {gram, ld, 1, gram, ld, n}, squared, ld);
        std::swap(gram, squared);
        double now = 0.0;
        for (Index i = 0; i < n; ++i) now += gram[i * ld + i];
        if (std::abs(now - concentration) <= 1e-14) break;
        concentration = now;
    }
    Index best = 0;
    for (Index i = 1; i < n; ++i)
        if (gram[i * ld + i] > gram[best * ld + best]) best = i;
    const double* v = gram + best * ld;
    double image2 = 0.0;
    for (Index i = 0; i < rows; ++i) {
        double entry = 0.0;
        for (Index j = 0; j < n; ++j) entry += Phi[i * ld + j] * v[j];
        image2 += entry * entry;
    }
    return std::sqrt(image2 / square_sum(1, n, v, ld));
}

// ‖U_sᵀU_s − U_{s+1}U_{s+1}ᵀ‖_F and the same over √(‖U_sᵀU_s‖² + ‖U_{s+1}U_{s+1}ᵀ‖²).
void ChainLoader::balance(Index s, double& gap, double& relative) {
    const ChainGeometry& g = geometry_;
    const auto level = static_cast<std::size_t>(s);
    const Index n = g.width[level], ld = g.padded[level], next = g.width[level + 1], next_ld = g.padded[level + 1];
    multiply(n, ld, {chain_.link(s), 1, ld, chain_.link(s), ld, g.width[level - 1]}, square_.data(), ld);
    kernels_.turn(n, next, chain_.link(s + 1), next_ld, spare_.data(), ld);
    multiply(n, ld, {chain_.link(s + 1), next_ld, 1, spare_.data(), ld, next}, other_.data(), ld);
    const double *A = square_.data(), *B = other_.data();
    double difference = 0.0;
    for (Index i = 0; i < n * ld; ++i) difference += (A[i] - B[i]) * (A[i] - B[i]);
    const double size = std::sqrt(square_sum(n, n, A, ld) + square_sum(n, n, B, ld));
    gap = std::sqrt(difference);
    relative = size > 0.0 ? gap / size : 0.0;
}

void ChainLoader::multiply(Index m, Index n, simd::Term<double> term, double* c, Index ldc) const {
    kernels_.multiply(m, n, &term, 1, c, ldc);
}

template class PaddedChain<float>;
template class PaddedChain<double>;

}  // namespace flatcore
