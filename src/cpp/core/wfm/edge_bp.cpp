#include "core/wfm/edge_bp.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/errors.hpp"
#include "core/parallel.hpp"
#include "core/simd/simd.hpp"

namespace flatcore::wfm {

namespace {

constexpr Index kEdgesPerThread = 1 << 14;
constexpr Index kEdgesBetweenLooks = 1 << 22;  // of one thread: 0.05 s or less

// Beyond, tanh(b − a) is ±1 to the last bit for every |a| <= 30.
constexpr double kMostTotal = 60.0;

simd::EdgeRow edge_row(const Task& task, const EdgeMessages& a, Index mu, Index k) {
    const Patterns& p = task.patterns;
    const Index segment = p.segment_of(k);
    return {p.inputs, p.data + (mu / kGroup) * p.group_words() + segment * p.words() * kGroup + mu % kGroup, kGroup,
            task.sign[mu], a.row(mu, k)};
}

// One thread's sums over its patterns, and its scratch: rows of a pattern's K units.
struct Worker {
    Worker(const Task& task_, const EdgeMessages& messages_, double damping_)
        : task(task_),
          messages(messages_),
          damping(damping_),
          node(task.units, task.activation),
          S(Matrix<double>::zeros(task.units, messages.ld)),
          G(static_cast<std::size_t>(task.units)),
          cavity(task.units, messages.ld),
          scratch(task.units, simd::kEdgeScratch),
          rows(G.size()),
          outputs(G.size()),
          z(G.size()),
          plus(G.size()),
          minus(G.size()) {}

    double* row(Matrix<double>& matrix, Index k) const { return matrix.data() + k * messages.ld; }

    void node_messages(Index mu) {
        for (std::size_t k = 0; k < z.size(); ++k) {
            outputs[k].V = std::max(outputs[k].V, simd::kLeastVariance);
            z[k] = outputs[k].omega / std::sqrt(outputs[k].V);
        }
        node.messages(z.data(), task.target[mu], plus.data(), minus.data());
        for (std::size_t k = 0; k < z.size(); ++k) {
            outputs[k].plus = plus[k];
            outputs[k].minus = minus[k];
        }
    }

    void binary(const Matrix<double>& b2, Index mu) {
        for (Index k = 0; k < task.units; ++k) {
            const auto at = static_cast<std::size_t>(k);
            rows[at] = edge_row(task, messages, mu, k);
            kernels.up(rows[at], b2.data() + k * messages.ld, row(cavity, k), &outputs[at].omega, &outputs[at].V);
        }
        node_messages(mu);
        change = kernels.down(task.units, rows.data(), outputs.data(), cavity.data(), messages.ld, damping, change,
                              S.data(), scratch.data());
    }

    void gaussian(const Matrix<double>& mean, const double* variance, double c, MatrixView<double> gamma, Index mu) {
        for (Index k = 0; k < task.units; ++k) {
            simd::EdgeOutput& output = outputs[static_cast<std::size_t>(k)];
            output.V = variance[k];
            kernels.gaussian_up(edge_row(task, messages, mu, k), mean.data() + k * messages.ld, c, variance[k],
                                row(cavity, k), &output.omega);
        }
        node_messages(mu);
        for (Index k = 0; k < task.units; ++k) {
            simd::EdgeOutput output = outputs[static_cast<std::size_t>(k)];
            const UnitResponse full = unit_response(output.omega, output.V, output.plus, output.minus);
            double& kept = gamma(mu, k);
            kept = full.gamma + damping * (kept - full.gamma);
            G[static_cast<std::size_t>(k)] += kept;
            output.V = std::max(output.V * (1.0 - c * c), simd::kLeastVariance);
            change = std::max(change, kernels.gaussian_down(edge_row(task, messages, mu, k), output, row(cavity, k),
                                                            damping, row(S, k)));
        }
    }

    const simd::EdgeKernels& kernels = simd::table().edges;
    const Task& task;
    EdgeMessages messages;
    double damping;
    OutputNode node;
    Matrix<double> S;
    std::vector<double> G;
    Matrix<double> cavity, scratch;
    std::vector<simd::EdgeRow> rows;
    std::vector<simd::EdgeOutput> outputs;
    std::vector<double> z, plus, minus;
    double change = 0.0;
};

// pattern(worker, mu) for all patterns, each thread's in order; the workers in the threads' order.
template <class Pattern>
std::vector<Worker> each_pattern(const Task& task, const EdgeMessages& messages, double damping, RunControl& control,
                                 const Pattern& pattern) {
    const Index P = task.patterns.patterns, row_edges = task.units * task.patterns.inputs;
    const Index pieces = parallel_pieces(P, std::max<Index>(1, kEdgesPerThread / row_edges));
    std::vector<Worker> workers;
    for (Index p = 0; p < pieces; ++p) workers.emplace_back(task, messages, damping);
    const Index chunk = std::max<Index>(1, kEdgesBetweenLooks / row_edges) * pieces;
    for (Index first = 0; first < P; first += chunk) {
        parallel_pieces_of(std::min(chunk, P - first), pieces, [&](Index piece, Index begin, Index end) {
            for (Index mu = first + begin; mu < first + end; ++mu)
                pattern(workers[static_cast<std::size_t>(piece)], mu);
        });
        control.checkpoint();
    }
    return workers;
}

// The workers' sums into S, and the largest change.
double gather(const std::vector<Worker>& workers, MatrixView<double> S) {
    double change = 0.0;
    S.eigen().setZero();
    for (const Worker& worker : workers) {
        change = std::max(change, worker.change);
        S.eigen() += worker.S.view().col_block(0, S.cols).eigen();
    }
    return change;
}

// entry(value) of b in rows of ld, `behind` behind them.
template <class Entry>
Matrix<double> padded(ConstMatrixView<double> b, Index ld, double behind, const Entry& entry) {
    Matrix<double> out(b.rows, ld);
    for (Index k = 0; k < b.rows; ++k)
        for (Index i = 0; i < ld; ++i) out.view()(k, i) = i < b.cols ? entry(b(k, i)) : behind;
    return out;
}

}  // namespace

Index padded_inputs(Index inputs) { return (inputs + simd::kEdgeLanes - 1) / simd::kEdgeLanes * simd::kEdgeLanes; }

double edge_sweep(const Task& task, const EdgeMessages& a, ConstMatrixView<double> b, double damping,
                  MatrixView<double> S, RunControl& control) {
    const Matrix<double> b2 =
        padded(b, a.ld, 1.0, [](double field) { return std::exp(2.0 * std::clamp(field, -kMostTotal, kMostTotal)); });
    const auto workers = each_pattern(task, a, damping, control, [&](Worker& w, Index mu) { w.binary(b2, mu); });
    return gather(workers, S);
}

double gaussian_sweep(const Task& task, const EdgeMessages& g, MatrixView<double> gamma, const GaussianUnits& units,
                      double damping, const GaussianSums& sums, RunControl& control) {
    const double c = 1.0 / std::sqrt(static_cast<double>(task.patterns.inputs));
    const Matrix<double> mean = padded(units.mean, g.ld, 0.0, [](double m) { return m; });
    const auto workers = each_pattern(task, g, damping, control,
                                      [&](Worker& w, Index mu) { w.gaussian(mean, units.variance, c, gamma, mu); });
    const double change = gather(workers, sums.H);
    sums.H.eigen() *= c;
    std::fill_n(sums.G, task.units, 0.0);
    for (const Worker& worker : workers)
        for (Index k = 0; k < task.units; ++k) sums.G[k] += c * c * worker.G[static_cast<std::size_t>(k)];
    return change;
}

}  // namespace flatcore::wfm
