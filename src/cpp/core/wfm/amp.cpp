#include "core/wfm/amp.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/parallel.hpp"

namespace flatcore::wfm {

namespace {

constexpr Index kOutputsPerThread = 1 << 9;
constexpr double kLeastVariance = 1e-6;

// Outputs of a thread's patterns; ω comes in as Σ ξ m and leaves as sign·g, which goes back to the weights.
template <class T>
struct Outputs {
    static constexpr Index kLanes = OutputNode::kLanes;

    explicit Outputs(const Task& task_)
        : task(task_), node(task.units, task.activation), gamma(static_cast<std::size_t>(task.units)), square(gamma) {}

    void block(double c, const double* V, MatrixView<T> fields, MatrixView<T> g, double damping, Index first,
               Index count) {
        for (Index k = 0; k < task.units; ++k) {
            const double variance = std::max(V[k], kLeastVariance), over = 1.0 / std::sqrt(variance);
            for (Index lane = 0; lane < count; ++lane) {
                const double field = c * task.sign[first + lane] * static_cast<double>(fields(first + lane, k));
                node.z(k, lane) = (field - variance * static_cast<double>(g(first + lane, k))) * over;
            }
        }
        for (Index lane = 0; lane < count; ++lane) node.set_target(lane, task.target[first + lane]);
        node.messages();
        node.slopes();
        for (Index lane = 0; lane < count; ++lane) log_partition += node.log_partition(lane);
        for (Index k = 0; k < task.units; ++k) {
            const double root = std::sqrt(std::max(V[k], kLeastVariance)), over = 1.0 / root;
            double& gammas = gamma[static_cast<std::size_t>(k)];
            double& squares = square[static_cast<std::size_t>(k)];
            for (Index lane = 0; lane < count; ++lane) {
                const double old = static_cast<double>(g(first + lane, k)), fresh = node.slope(k, lane) * over;
                const double kept = fresh + damping * (old - fresh);
                change = std::max(change, std::fabs(fresh - old) * root);
                gammas += fresh * (fresh + node.z(k, lane) * over);
                squares += kept * kept;
                g(first + lane, k) = static_cast<T>(kept);
                fields(first + lane, k) = static_cast<T>(task.sign[first + lane] * kept);
            }
        }
    }

    const Task& task;
    OutputNode node;
    std::vector<double> gamma, square;
    double log_partition = 0.0, change = 0.0;
};

template <class T>
void all_outputs(const Task& task, double c, const double* V, MatrixView<T> fields, MatrixView<T> g, double damping,
                 AmpSums& sums) {
    const Index P = task.patterns.patterns;
    const Index pieces = parallel_pieces(P, std::max<Index>(1, kOutputsPerThread / task.units));
    std::vector<Outputs<T>> outputs;
    for (Index p = 0; p < pieces; ++p) outputs.emplace_back(task);
    parallel_pieces_of(P, pieces, [&](Index piece, Index first, Index last) {
        Outputs<T>& own = outputs[static_cast<std::size_t>(piece)];
        for (Index mu = first; mu < last; mu += Outputs<T>::kLanes)
            own.block(c, V, fields, g, damping, mu, std::min(Outputs<T>::kLanes, last - mu));
    });
    sums.log_partition = sums.change = 0.0;
    std::fill_n(sums.gamma, task.units, 0.0);
    std::fill_n(sums.square, task.units, 0.0);
    for (const Outputs<T>& own : outputs) {
        sums.log_partition += own.log_partition;
        sums.change = std::max(sums.change, own.change);
        for (Index k = 0; k < task.units; ++k) {
            sums.gamma[k] += own.gamma[static_cast<std::size_t>(k)];
            sums.square[k] += own.square[static_cast<std::size_t>(k)];
        }
    }
}

}  // namespace

template <class T>
void amp_sweep(const Task& task, double c, ConstMatrixView<T> m, const double* V, MatrixView<T> g, double damping,
               MatrixView<T> S, AmpSums& sums, RunControl& control) {
    Matrix<T> omega(task.patterns.patterns, task.units);
    fields<T>(task.patterns, m, omega.view(), control);
    all_outputs<T>(task, c, V, omega.view(), g, damping, sums);
    wfm::sums<T>(task.patterns, ConstMatrixView<T>(omega.view()), S, control);
    const Index n = task.patterns.inputs;
    parallel_ranges(task.units, std::max<Index>(1, kEntriesPerThread / n), [&](Index first, Index last) {
        for (Index k = first; k < last; ++k) {
            const T scale = static_cast<T>(c), pull = static_cast<T>(c * c * sums.gamma[k]);
            for (Index i = 0; i < n; ++i) S(k, i) = scale * S(k, i) + pull * m(k, i);
        }
    });
}

template void amp_sweep<float>(const Task&, double, ConstMatrixView<float>, const double*, MatrixView<float>, double,
                               MatrixView<float>, AmpSums&, RunControl&);
template void amp_sweep<double>(const Task&, double, ConstMatrixView<double>, const double*, MatrixView<double>, double,
                                MatrixView<double>, AmpSums&, RunControl&);

}  // namespace flatcore::wfm
