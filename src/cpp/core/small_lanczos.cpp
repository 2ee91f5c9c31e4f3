#include "core/small_lanczos.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace flatcore {

namespace {

constexpr Index kCapacity = 160;
constexpr Index kStepsBetweenLooks = 2;
constexpr int kMostPasses = 4;

template <class T>
constexpr double eps() {
    return static_cast<double>(std::numeric_limits<T>::epsilon());
}

}  // namespace

template <class T>
SmallLanczos<T>::SmallLanczos(const ChainGeometry& geometry, Index most_locked)
    : geometry_(geometry),
      kernels_(simd::small_chain<T>()),
      length_(geometry.length),
      capacity_(std::min(kCapacity, geometry.parameters)),
      basis_((capacity_ + 1) * length_),
      locked_(most_locked * length_),
      ritz_(length_) {}

template <class T>
void SmallLanczos<T>::begin(const simd::SmallChain<T>& chain) {
    chain_ = chain;
    found_ = products_ = steps_ = 0;
    scale_ = 0.0;
}

template <class T>
void SmallLanczos<T>::lock() {
    kernels_.scale(length_, T(1), ritz(), locked_.data() + found_ * length_);
    ++found_;
}

// w against the locked vectors and the first `known` of the basis, one after the other.
template <class T>
void SmallLanczos<T>::orthogonalise(T* w, Index known) const {
    const auto subtract = [&](const T* v) {
        kernels_.add(length_, static_cast<T>(-kernels_.dot(length_, v, w)), v, w);
    };
    for (Index i = 0; i < found_; ++i) subtract(locked(i));
    for (Index i = 0; i < known; ++i) subtract(row(i));
}

// q_0 from ritz(); false where nothing of it is left.
template <class T>
bool SmallLanczos<T>::normalise_start() {
    T* const q = row(0);
    kernels_.scale(length_, T(1), ritz(), q);
    for (int pass = 0; pass < 2; ++pass) {
        orthogonalise(q, 0);
        const double norm = std::sqrt(kernels_.dot(length_, q, q));
        if (!(norm > 0.0) || !std::isfinite(norm)) return false;
        kernels_.scale(length_, static_cast<T>(1.0 / norm), q, q);
    }
    T_.a.clear();
    T_.b.assign(1, 0.0);
    omega_.clear();
    previous_omega_.clear();
    again_ = false;
    theta_ = -std::numeric_limits<double>::infinity();
    residual_ = 0.0;
    return true;
}

// One product and its place in T; q_{j+1} is left in the next row, not yet divided by its norm β_{j+1}.
template <class T>
double SmallLanczos<T>::extend() {
    const Index j = T_.size();
    T *const q = row(j), *const w = row(j + 1);
    const double alpha = kernels_.hessian(chain_, q, w);  // q ⟂ the locked vectors, to rounding
    ++products_;
    if (found_ > 0) orthogonalise(w, 0);
    const double before = T_.b.back();
    const double beta = std::sqrt(
        kernels_.recur(length_, static_cast<T>(alpha), q, static_cast<T>(before), j > 0 ? row(j - 1) : nullptr, w));
    T_.a.push_back(alpha);
    scale_ = std::max(scale_, std::hypot(alpha, beta, before));
    if (!std::isfinite(beta)) return beta;
    return estimates_exceed(beta) ? reorthogonalised(beta) : beta;
}

template <class T>
double SmallLanczos<T>::reorthogonalised(double beta) {
    const Index j = T_.size();
    T* const w = row(j);
    for (int pass = 0; pass < kMostPasses; ++pass) {
        orthogonalise(w, j);
        const double left = std::sqrt(kernels_.dot(length_, w, w));
        const bool done = left > 0.5 * beta;
        beta = left;
        if (done) break;
    }
    std::fill(omega_.begin(), omega_.end(), eps<T>());
    return beta;
}

// The ω of q_{j+1}; whether it has to be orthogonalised.
template <class T>
bool SmallLanczos<T>::estimates_exceed(double beta) {
    const std::size_t j = T_.a.size() - 1;
    const std::vector<double>&a = T_.a, &b = T_.b;
    const double unit = 0.5 * eps<T>(), divisor = std::max(beta, std::numeric_limits<double>::min());
    next_omega_.resize(j + 1);
    double worst = 0.0;
    for (std::size_t i = 0; i < j; ++i) {
        const double up = i + 1 < j ? omega_[i + 1] : 1.0, down = i > 0 ? b[i] * omega_[i - 1] : 0.0;
        const double same = i + 1 < j ? previous_omega_[i] : 1.0;
        const double sum = b[i + 1] * up + (a[i] - a[j]) * omega_[i] + down - b[j] * same;
        next_omega_[i] = (sum + std::copysign(unit * (b[i + 1] + beta), sum)) / divisor;
        worst = std::max(worst, std::abs(next_omega_[i]));
    }
    next_omega_[j] = 2.0 * unit * scale_ / divisor;
    worst = std::max(worst, next_omega_[j]);
    previous_omega_.swap(omega_);
    omega_.swap(next_omega_);
    const bool first = worst > std::sqrt(eps<T>()), exceed = first || again_;
    again_ = first && !again_;
    return exceed;
}

template <class T>
double SmallLanczos<T>::top_residual(double beta) {
    theta_ = largest_eigenvalue(T_, theta_ + 2.0 * residual_);
    s_ = eigenvector(T_, theta_);
    residual_ = beta * std::abs(s_.back());
    return residual_;
}

// ritz() = Σ s_j q_j, the rounding along locked vectors taken out.
template <class T>
void SmallLanczos<T>::combine() {
    std::vector<T> coefficients(s_.begin(), s_.end());
    const simd::Term<T> term{coefficients.data(), 1, 1, basis_.data(), length_, T_.size()};
    kernels_.multiply(1, length_, &term, 1, ritz(), length_);
    orthogonalise(ritz(), 0);
    const double norm = std::sqrt(kernels_.dot(length_, ritz(), ritz()));
    kernels_.scale(length_, static_cast<T>(1.0 / norm), ritz(), ritz());
}

template <class T>
typename SmallLanczos<T>::End SmallLanczos<T>::run(const LanczosLimits& limits, const std::function<void()>& pulse) {
    const Index room = geometry_.parameters - found_;
    bool restarted = false;
    if (!normalise_start()) return End::overflow;
    for (Index look = std::min(limits.least_steps, capacity_);;) {
        const double beta = extend();
        pulse();
        if (!std::isfinite(beta)) return End::overflow;
        const Index j = T_.size();
        const bool exhausted = j >= room || beta <= 4.0 * eps<T>() * scale_;
        const bool full = j >= capacity_, spent = products_ >= limits.most_products;
        if (j >= look || exhausted || full || spent) {
            const double residual = top_residual(exhausted ? 0.0 : beta);
            const bool converged = residual <= limits.tol * scale_ && (j >= limits.least_steps || restarted);
            if (converged || exhausted || full || spent) {
                if (!restarted) steps_ = exhausted ? 0 : j;
                combine();
                if (converged || exhausted) return End::converged;
                if (spent) return End::limit;
                if (!normalise_start()) return End::overflow;
                restarted = true;
                look = 1;
                continue;
            }
            look = j + kStepsBetweenLooks;
        }
        kernels_.scale(length_, static_cast<T>(1.0 / beta), row(j), row(j));
        T_.b.push_back(beta);
    }
}

template class SmallLanczos<float>;
template class SmallLanczos<double>;

}  // namespace flatcore
