#include "core/many_chains.hpp"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <optional>

#include "core/mixed.hpp"
#include "core/parallel.hpp"
#include "core/small_lanczos.hpp"

namespace flatcore {

namespace {

constexpr int kAttempts = 3;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Another thread asked to stop.
struct Abandoned {};

// One thread's solver: loads a chain, finds its top eigenpairs, certifies them, writes its row of the results.
template <class T>
class ChainSolver {
 public:
    ChainSolver(const ManyChains& chains, const ChainGeometry& geometry, const ManyOptions& options,
                const ManyResults<T>& results, std::function<void()> pulse)
        : geometry_(geometry),
          options_(options),
          results_(results),
          pulse_(std::move(pulse)),
          kernels_(simd::small_chain<double>()),
          loader_(chains, geometry),
          lanczos_(geometry, options.k),
          vectors_(options.k * geometry.length),
          images_(options.k * geometry.length),
          defect_(geometry.length),
          rotated_(results.vectors ? geometry.widest * geometry.pad(geometry.widest) : 0) {
        if constexpr (!std::is_same_v<T, double>) rounded_.emplace(geometry);
    }

    void solve(Index i) {
        end_ = End::overflow;
        steps_ = std::numeric_limits<Index>::max();
        exact_products_ = 0;
        width_ = scale_ = kNaN;
        const bool finite = loader_.load(i);
        write_measures(i);
        if (finite) find_all(i);
        write(i);
    }

 private:
    using End = typename SmallLanczos<T>::End;

    double* vector(Index n) const { return vectors_.data() + n * geometry_.length; }
    double* image(Index n) const { return images_.data() + n * geometry_.length; }

    void find_all(Index i) {
        exact_ = loader_.chain().view(options_.curvature);
        if constexpr (std::is_same_v<T, double>) {
            lanczos_.begin(exact_);
        } else {
            rounded_->round_from(loader_.chain());
            lanczos_.begin(rounded_->view(options_.curvature));
        }
        end_ = End::converged;
        for (Index n = 0; n < options_.k && end_ != End::overflow; ++n) {
            fill_uniform(lanczos_.ritz(), mixed(options_.seed + mixed(static_cast<std::uint64_t>(i) + mixed(n))));
            find_one(n);
        }
    }

    void find_one(Index n) {
        LanczosLimits limits{0.5 * options_.tol, options_.certified_steps, options_.max_steps};
        for (int attempt = 0; attempt < kAttempts; ++attempt) {
            const End end = lanczos_.run(limits, pulse_);
            if (end != End::converged) end_ = end;
            if (end == End::overflow) return;
            if (attempt == 0) note_extent(n);
            const double defect = certify(n);
            if (end == End::limit || defect <= options_.tol * scale_) break;
            limits.tol *= 0.25;
            limits.least_steps = 1;
        }
        lanczos_.lock();
    }

    // The extent of the spectrum as the first run saw it, and the steps of the run of the weakest certificate.
    void note_extent(Index n) {
        if (const Index steps = lanczos_.steps(); steps > 0) steps_ = std::min(steps_, steps);
        if (n > 0) return;
        const Tridiagonal& projection = lanczos_.projection();
        const double inf = std::numeric_limits<double>::infinity();
        const double high = largest_eigenvalue(projection, inf), low = -largest_eigenvalue(projection.negated(), inf);
        width_ = high - low;
        scale_ = std::max(std::abs(high), std::abs(low));
    }

    // ‖Hx − θx‖ in float64 outside the vectors found before; keeps x and Hx.
    double certify(Index n) {
        const Index N = geometry_.length;
        double *x = vector(n), *Hx = image(n), *defect = defect_.data();
        std::copy_n(lanczos_.ritz(), N, x);
        kernels_.scale(N, 1.0 / std::sqrt(kernels_.dot(N, x, x)), x, x);
        kernels_.hessian(exact_, x, Hx);
        ++exact_products_;
        pulse_();
        std::copy_n(Hx, N, defect);
        for (Index other = 0; other <= n; ++other) {
            const double* v = vector(other);
            kernels_.add(N, -kernels_.dot(N, v, defect), v, defect);
        }
        return std::sqrt(kernels_.dot(N, defect, defect));
    }

    // Uniform on [−1, 1]; the padding stays zero.
    void fill_uniform(T* v, std::uint64_t counter) const {
        const ChainGeometry& g = geometry_;
        for (std::size_t s = 1; s < g.width.size(); ++s) {
            for (Index i = 0; i < g.width[s - 1]; ++i) {
                simd::small_chain<T>().uniform(g.width[s], counter, v + g.offset[s] + i * g.padded[s]);
                counter += static_cast<std::uint64_t>((g.width[s] + 1) / 2);
            }
        }
    }

    void write_measures(Index i) {
        const Index pairs = geometry_.depth - 1;
        results_.loss[i] = loader_.loss();
        if (!options_.measures) {
            results_.gradient_norm[i] = results_.spectral_norm[i] = kNaN;
            std::fill_n(results_.gap + i * pairs, pairs, kNaN);
            std::fill_n(results_.relative_gap + i * pairs, pairs, kNaN);
            return;
        }
        const ChainMeasures measures = loader_.measure();
        results_.gradient_norm[i] = measures.gradient_norm;
        results_.spectral_norm[i] = measures.spectral_norm;
        std::copy_n(measures.gap.data(), pairs, results_.gap + i * pairs);
        std::copy_n(measures.relative_gap.data(), pairs, results_.relative_gap + i * pairs);
    }

    void write(Index i) {
        const Index k = options_.k;
        results_.products[i] = lanczos_.products() + exact_products_;
        results_.steps[i] = steps_ == std::numeric_limits<Index>::max() ? 0 : steps_;
        results_.width[i] = width_;
        results_.extent[i] = scale_;
        ManyStatus status = ManyStatus::overflow;
        if (end_ == End::overflow) {
            std::fill_n(results_.values + i * k, k, kNaN);
            std::fill_n(results_.residuals + i * k, k, kNaN);
            if (results_.vectors)
                std::fill_n(results_.vectors + i * k * geometry_.parameters, k * geometry_.parameters,
                            static_cast<T>(kNaN));
        } else {
            const double worst = rayleigh_ritz(i);
            const bool good = worst <= options_.tol * scale_;
            status = good                 ? ManyStatus::converged
                     : end_ == End::limit ? ManyStatus::max_iterations
                                          : ManyStatus::precision_limited;
        }
        results_.status[i] = static_cast<std::int32_t>(status);
    }

    // Values in descending order with their true residuals, vectors where asked for; the largest residual.
    double rayleigh_ritz(Index i) {
        const Index k = options_.k, N = geometry_.length;
        Eigen::MatrixXd G(k, k);
        for (Index a = 0; a < k; ++a)
            for (Index b = 0; b <= a; ++b)
                G(a, b) = 0.5 * (kernels_.dot(N, vector(a), image(b)) + kernels_.dot(N, vector(b), image(a)));
        Eigen::MatrixXd Z = Eigen::MatrixXd::Identity(k, k);
        Eigen::VectorXd theta = G.diagonal();
        if (k > 1) {
            const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(G);
            Z = solver.eigenvectors().rowwise().reverse();
            theta = solver.eigenvalues().reverse();
        }
        double worst = 0.0;
        for (Index n = 0; n < k; ++n) {
            std::fill_n(defect_.data(), N, 0.0);
            for (Index a = 0; a < k; ++a) {
                kernels_.add(N, Z(a, n), image(a), defect_.data());
                kernels_.add(N, -theta(n) * Z(a, n), vector(a), defect_.data());
            }
            const double residual = std::sqrt(kernels_.dot(N, defect_.data(), defect_.data()));
            results_.values[i * k + n] = theta(n);
            results_.residuals[i * k + n] = residual;
            worst = std::max(worst, residual);
            if (results_.vectors) write_vector(Z.col(n), results_.vectors + (i * k + n) * geometry_.parameters);
        }
        return worst;
    }

    void write_vector(const Eigen::VectorXd& coefficients, T* out) {
        const ChainGeometry& g = geometry_;
        std::fill_n(defect_.data(), g.length, 0.0);
        for (Index a = 0; a < options_.k; ++a) kernels_.add(g.length, coefficients(a), vector(a), defect_.data());
        for (Index layer = 1; layer <= g.depth; ++layer) {
            const auto s = static_cast<std::size_t>(g.layer(layer));  // the map is its own inverse
            double* block = defect_.data() + g.offset[s];
            if (layer == 1 && g.output) {
                loader_.unrotate(block, rotated_.data());
                block = rotated_.data();
            }
            const Index rows = g.width[s - 1], cols = g.width[s], ld = g.padded[s];
            for (Index p = 0; p < rows; ++p)
                for (Index q = 0; q < cols; ++q)
                    out[g.output ? p * cols + q : q * rows + p] = static_cast<T>(block[p * ld + q]);
            out += rows * cols;
        }
    }

    const ChainGeometry& geometry_;
    const ManyOptions& options_;
    const ManyResults<T>& results_;
    std::function<void()> pulse_;
    const simd::SmallChainKernels<double>& kernels_;
    ChainLoader loader_;
    std::optional<PaddedChain<T>> rounded_;
    SmallLanczos<T> lanczos_;
    AlignedArray<double> vectors_, images_, defect_, rotated_;
    simd::SmallChain<double> exact_;
    End end_ = End::converged;
    Index steps_ = 0, exact_products_ = 0;
    double width_ = 0.0, scale_ = 0.0;
};

}  // namespace

template <class T>
void many_sharpness(const ManyChains& chains, const ManyOptions& options, const ManyResults<T>& results,
                    RunControl& control) {
    const ChainGeometry geometry(chains, simd::small_chain<T>().lanes);
    const Index threads = std::min<Index>(max_threads(), chains.batch);
    std::atomic<Index> next{0};
    std::atomic<bool> stop{false};
    const auto work = [&](Index thread) {
        const auto pulse = [&, thread] {
            if (thread == 0) control.checkpoint(static_cast<double>(next.load()) / static_cast<double>(chains.batch));
            if (stop.load(std::memory_order_relaxed)) throw Abandoned{};
        };
        try {
            ChainSolver<T> solver(chains, geometry, options, results, pulse);
            for (Index i = next++; i < chains.batch; i = next++) solver.solve(i);
        } catch (const Abandoned&) {
        } catch (...) {
            stop = true;
            throw;
        }
    };
    parallel_ranges(threads, 1, [&](Index first, Index last) {
        for (Index thread = first; thread < last; ++thread) work(thread);
    });
}

template void many_sharpness<float>(const ManyChains&, const ManyOptions&, const ManyResults<float>&, RunControl&);
template void many_sharpness<double>(const ManyChains&, const ManyOptions&, const ManyResults<double>&, RunControl&);

}  // namespace flatcore
