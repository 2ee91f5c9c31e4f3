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

// One thread's sums over its patterns, and its scratch: rows of K units of up to eight patterns, whose output nodes are
// computed together.
struct Worker {
    static constexpr Index kLanes = OutputNode::kLanes;

    Worker(const Task& task_, const EdgeMessages& messages_, double damping_)
        : task(task_),
          messages(messages_),
          damping(damping_),
          node(task.units, task.activation),
          S(Matrix<double>::zeros(task.units, messages.ld)),
          G(static_cast<std::size_t>(task.units)),
          cavity(kLanes * task.units, messages.ld),
          scratch(task.units, simd::kEdgeScratch),
          rows(static_cast<std::size_t>(kLanes * task.units)),
          outputs(rows.size()) {}

    std::size_t at(Index lane, Index k) const { return static_cast<std::size_t>(lane * task.units + k); }
    double* cavity_row(Index lane, Index k) { return cavity.data() + (lane * task.units + k) * messages.ld; }
    double* sum_row(Index k) { return S.data() + k * messages.ld; }

    // up(lane, k) for each unit of the patterns first … first + count − 1: ω and V of its output; then their nodes.
    template <class Up>
    void all_up(Index first, Index count, const Up& up) {
        for (Index lane = 0; lane < count; ++lane) {
            for (Index k = 0; k < task.units; ++k) {
                simd::EdgeOutput& output = outputs[at(lane, k)];
                rows[at(lane, k)] = edge_row(task, messages, first + lane, k);
                up(lane, k);
                output.V = std::max(output.V, simd::kLeastVariance);
                node.z(k, lane) = output.omega / std::sqrt(output.V);
            }
            node.set_target(lane, task.target[first + lane]);
        }
        node.messages();
        for (Index lane = 0; lane < count; ++lane) {
            for (Index k = 0; k < task.units; ++k) {
                outputs[at(lane, k)].plus = node.plus(k, lane);
                outputs[at(lane, k)].minus = node.minus(k, lane);
            }
        }
    }

    void binary(const Matrix<double>& b2, Index first, Index count) {
        all_up(first, count, [&](Index lane, Index k) {
            simd::EdgeOutput& output = outputs[at(lane, k)];
            kernels.up(rows[at(lane, k)], b2.data() + k * messages.ld, cavity_row(lane, k), &output.omega, &output.V);
        });
        for (Index lane = 0; lane < count; ++lane)
            change = kernels.down(task.units, &rows[at(lane, 0)], &outputs[at(lane, 0)], cavity_row(lane, 0),
                                  messages.ld, damping, change, S.data(), scratch.data());
    }

    void gaussian(const Matrix<double>& mean, const double* variance, double c, MatrixView<double> gamma, Index first,
                  Index count) {
        all_up(first, count, [&](Index lane, Index k) {
            simd::EdgeOutput& output = outputs[at(lane, k)];
            output.V = variance[k];
            kernels.gaussian_up(rows[at(lane, k)], mean.data() + k * messages.ld, c, variance[k], cavity_row(lane, k),
                                output);
        });
        node.slopes();
        for (Index lane = 0; lane < count; ++lane) {
            for (Index k = 0; k < task.units; ++k) {
                simd::EdgeOutput& output = outputs[at(lane, k)];
                const double fresh = node.bend(k, lane) / output.V;
                double& kept = gamma(first + lane, k);
                kept = fresh + damping * (kept - fresh);
                G[static_cast<std::size_t>(k)] += kept;
                output.V = std::max(output.V * (1.0 - c * c), simd::kLeastVariance);
                change = std::max(
                    change, kernels.gaussian_down(rows[at(lane, k)], output, cavity_row(lane, k), damping, sum_row(k)));
            }
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
    double change = 0.0;
};

// block(worker, first, count) for all patterns, up to eight together, each thread's in order; the workers in the
// threads' order.
template <class Block>
std::vector<Worker> each_block(const Task& task, const EdgeMessages& messages, double damping, RunControl& control,
                               const Block& block) {
    const Index P = task.patterns.patterns, row_edges = task.units * task.patterns.inputs;
    const Index pieces = parallel_pieces(P, std::max<Index>(1, kEdgesPerThread / row_edges));
    std::vector<Worker> workers;
    for (Index p = 0; p < pieces; ++p) workers.emplace_back(task, messages, damping);
    const Index chunk = std::max<Index>(Worker::kLanes, kEdgesBetweenLooks / row_edges) * pieces;
    for (Index first = 0; first < P; first += chunk) {
        parallel_pieces_of(std::min(chunk, P - first), pieces, [&](Index piece, Index begin, Index end) {
            for (Index mu = begin; mu < end; mu += Worker::kLanes)
                block(workers[static_cast<std::size_t>(piece)], first + mu, std::min(Worker::kLanes, end - mu));
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
    const auto workers = each_block(task, a, damping, control,
                                    [&](Worker& worker, Index first, Index count) { worker.binary(b2, first, count); });
    return gather(workers, S);
}

double gaussian_sweep(const Task& task, const EdgeMessages& g, MatrixView<double> gamma, const GaussianUnits& units,
                      double damping, const GaussianSums& sums, RunControl& control) {
    const double c = 1.0 / std::sqrt(static_cast<double>(task.patterns.inputs));
    const Matrix<double> mean = padded(units.mean, g.ld, 0.0, [](double m) { return m; });
    const auto workers = each_block(task, g, damping, control, [&](Worker& worker, Index first, Index count) {
        worker.gaussian(mean, units.variance, c, gamma, first, count);
    });
    const double change = gather(workers, sums.H);
    sums.H.eigen() *= c;
    std::fill_n(sums.G, task.units, 0.0);
    for (const Worker& worker : workers)
        for (Index k = 0; k < task.units; ++k) sums.G[k] += c * c * worker.G[static_cast<std::size_t>(k)];
    return change;
}

}  // namespace flatcore::wfm
