#include "core/wfm/amp.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/parallel.hpp"

namespace flatcore::wfm {

namespace {

constexpr Index kOutputsPerThread = 1 << 9;
constexpr double kLeastVariance = 1e-6;

// The outputs of a range of patterns; ω comes in as Σ ξ m and leaves as sign·g, which goes back to the weights.
template <class T>
struct Outputs {
    explicit Outputs(const Task& task_)
        : task(task_),
          node(task.units, task.activation),
          gamma(static_cast<std::size_t>(task.units)),
          square(gamma),
          omega(gamma),
          z(gamma),
          plus(gamma),
          minus(gamma) {}

    void pattern(double c, const double* V, MatrixView<T> fields, MatrixView<T> g, double damping, Index mu) {
        const double sign = static_cast<double>(task.sign[mu]);
        for (std::size_t k = 0; k < z.size(); ++k) {
            const auto at = static_cast<Index>(k);
            const double variance = std::max(V[k], kLeastVariance);
            omega[k] = c * sign * static_cast<double>(fields(mu, at)) - variance * static_cast<double>(g(mu, at));
            z[k] = omega[k] / std::sqrt(variance);
        }
        log_partition += node.messages(z.data(), task.target[mu], plus.data(), minus.data());
        for (std::size_t k = 0; k < z.size(); ++k) {
            const auto at = static_cast<Index>(k);
            const double variance = std::max(V[k], kLeastVariance), old = static_cast<double>(g(mu, at));
            const UnitResponse unit = unit_response(omega[k], variance, plus[k], minus[k]);
            const double kept = unit.g + damping * (old - unit.g);
            change = std::max(change, std::fabs(unit.g - old) * std::sqrt(variance));
            gamma[k] += unit.gamma;
            square[k] += kept * kept;
            g(mu, at) = static_cast<T>(kept);
            fields(mu, at) = static_cast<T>(sign * kept);
        }
    }

    const Task& task;
    OutputNode node;
    std::vector<double> gamma, square, omega, z, plus, minus;
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
        for (Index mu = first; mu < last; ++mu) own.pattern(c, V, fields, g, damping, mu);
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
