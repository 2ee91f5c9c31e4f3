#include "core/wfm/amp.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "core/parallel.hpp"
#include "core/simd/simd.hpp"

namespace flatcore::wfm {

namespace {

constexpr double kEdgesPerOutput = 1500.0;  // products make so many edges in the time of an output
constexpr double kLeastVariance = 1e-6;

// Outputs of a thread's patterns; ω comes in as Σ ξ m and leaves as sign·g, which goes back to the weights.
template <class T>
struct Outputs {
    static constexpr Index kLanes = OutputNode::kLanes;

    explicit Outputs(const Task& task_) : task(task_), sums(static_cast<std::size_t>(task.units)) {}

    void range(double c, const double* V, MatrixView<T> fields, MatrixView<T> g, double damping, Index first,
               Index last) {
        if (task.units == 1) {
            const simd::AmpUnit unit{c, V[0], damping};
            simd::amp<T>().outputs(last - first, unit, task.sign + first, fields.data + first, g.data + first, sums[0]);
            return;
        }
        if (!node) node.emplace(task.units, task.activation);
        for (Index mu = first; mu < last; mu += kLanes)
            block(c, V, fields, g, damping, mu, std::min(kLanes, last - mu));
    }

    void block(double c, const double* V, MatrixView<T> fields, MatrixView<T> g, double damping, Index first,
               Index count) {
        for (Index k = 0; k < task.units; ++k) {
            const double over = 1.0 / std::sqrt(V[k]);
            for (Index lane = 0; lane < count; ++lane) {
                const double field = c * task.sign[first + lane] * static_cast<double>(fields(first + lane, k));
                node->z(k, lane) = (field - V[k] * static_cast<double>(g(first + lane, k))) * over;
            }
        }
        for (Index lane = 0; lane < count; ++lane) node->set_target(lane, task.target[first + lane]);
        node->messages();
        node->slopes();
        for (Index lane = 0; lane < count; ++lane) sums[0].log_partition += node->log_partition(lane);
        for (Index k = 0; k < task.units; ++k) {
            const double root = std::sqrt(V[k]), over = 1.0 / root;
            simd::AmpOutputSums& unit = sums[static_cast<std::size_t>(k)];
            for (Index lane = 0; lane < count; ++lane) {
                const double old = static_cast<double>(g(first + lane, k)), fresh = node->slope(k, lane) * over;
                const double kept = fresh + damping * (old - fresh);
                unit.change = std::max(unit.change, std::fabs(fresh - old) * root);
                unit.gamma += node->bend(k, lane) / V[k];
                unit.square += kept * kept;
                g(first + lane, k) = static_cast<T>(kept);
                fields(first + lane, k) = static_cast<T>(task.sign[first + lane] * kept);
            }
        }
    }

    const Task& task;
    std::optional<OutputNode> node;         // of more than one unit
    std::vector<simd::AmpOutputSums> sums;  // a unit; Σ log Z in the first
};

template <class T>
void add_up(const std::vector<Outputs<T>>& threads, Index units, AmpSums& sums) {
    sums.log_partition = sums.change = 0.0;
    std::fill_n(sums.gamma, units, 0.0);
    std::fill_n(sums.square, units, 0.0);
    for (const Outputs<T>& own : threads) {
        for (Index k = 0; k < units; ++k) {
            const simd::AmpOutputSums& unit = own.sums[static_cast<std::size_t>(k)];
            sums.log_partition += unit.log_partition;
            sums.change = std::max(sums.change, unit.change);
            sums.gamma[k] += unit.gamma;
            sums.square[k] += unit.square;
        }
    }
}

// g in place, and S = Σ_μ x g.
template <class T>
void sweep(const Task& task, double c, ConstMatrixView<T> m, const double* V, MatrixView<T> g, double damping,
           MatrixView<T> S, AmpSums& sums, RunControl& control) {
    std::vector<double> variance(V, V + task.units);
    for (double& v : variance) v = std::max(v, kLeastVariance);
    std::vector<Outputs<T>> threads(static_cast<std::size_t>(max_threads()), Outputs<T>(task));
    Matrix<T> omega(task.patterns.patterns, task.units);
    const auto outputs = [&](Index piece, Index first, Index last) {
        threads[static_cast<std::size_t>(piece)].range(c, variance.data(), omega.view(), g, damping, first, last);
    };
    const double edges = kEdgesPerOutput * static_cast<double>(task.units);
    fields_then_sums<T>(task.patterns, m, omega.view(), S, control, {outputs, edges});
    add_up(threads, task.units, sums);
}

}  // namespace

template <class T>
void gaussian_amp_sweep(const Task& task, double c, ConstMatrixView<T> m, const double* V, MatrixView<T> g,
                        double* gamma, double damping, MatrixView<T> S, AmpSums& sums, RunControl& control) {
    sweep(task, c, m, V, g, damping, S, sums, control);
    for (Index k = 0; k < task.units; ++k) {
        gamma[k] = sums.gamma[k] + damping * (gamma[k] - sums.gamma[k]);
        const T scale = static_cast<T>(c), pull = static_cast<T>(c * c * std::max(gamma[k], 0.0));
        const T* const mean = &m(k, 0);
        T* const row = &S(k, 0);
        for (Index i = 0; i < m.cols; ++i) row[i] = scale * row[i] + pull * mean[i];
    }
}

template <class T>
void binary_amp_sweep(const Task& task, ConstMatrixView<T> f, MatrixView<T> g, double damping, MatrixView<T> S,
                      double* V, AmpSums& sums, RunControl& control) {
    const Index n = task.patterns.inputs;
    Matrix<T> both(2 * task.units, n);
    const MatrixView<T> m = both.view().row_block(0, task.units), fresh = both.view().row_block(task.units, task.units);
    for (Index k = 0; k < task.units; ++k) V[k] = simd::amp<T>().means(n, &S(k, 0), &f(k, 0), &m(k, 0));
    sweep<T>(task, 1.0, m, V, g, damping, fresh, sums, control);
    for (Index k = 0; k < task.units; ++k) {
        const T pull = static_cast<T>(sums.gamma[k]), keep = static_cast<T>(damping);
        const T *const mean = &m(k, 0), *const sum = &fresh(k, 0);
        T* const row = &S(k, 0);
        for (Index i = 0; i < n; ++i) {
            const T next = sum[i] + pull * mean[i];
            row[i] = next + keep * (row[i] - next);
        }
    }
}

template void gaussian_amp_sweep<float>(const Task&, double, ConstMatrixView<float>, const double*, MatrixView<float>,
                                        double*, double, MatrixView<float>, AmpSums&, RunControl&);
template void gaussian_amp_sweep<double>(const Task&, double, ConstMatrixView<double>, const double*,
                                         MatrixView<double>, double*, double, MatrixView<double>, AmpSums&,
                                         RunControl&);
template void binary_amp_sweep<float>(const Task&, ConstMatrixView<float>, MatrixView<float>, double, MatrixView<float>,
                                      double*, AmpSums&, RunControl&);
template void binary_amp_sweep<double>(const Task&, ConstMatrixView<double>, MatrixView<double>, double,
                                       MatrixView<double>, double*, AmpSums&, RunControl&);

}  // namespace flatcore::wfm
