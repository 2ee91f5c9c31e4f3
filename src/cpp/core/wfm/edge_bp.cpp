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
    Worker(const Task& task, Index ld)
        : node(task.units, task.activation),
          S(Matrix<double>::zeros(task.units, ld)),
          q(task.units, ld),
          h(task.units, ld),
          outputs(static_cast<std::size_t>(task.units)),
          z(static_cast<std::size_t>(task.units)),
          plus(z),
          minus(z) {}

    void sweep(const Task& task, const EdgeMessages& a, const Matrix<double>& b2, double damping, Index first,
               Index last) {
        const simd::EdgeKernels& kernels = simd::table().edges;
        const Index ld = a.ld;
        for (Index mu = first; mu < last; ++mu) {
            for (Index k = 0; k < task.units; ++k) {
                simd::EdgeOutput& output = outputs[static_cast<std::size_t>(k)];
                kernels.up(edge_row(task, a, mu, k), b2.data() + k * ld, q.data() + k * ld, h.data() + k * ld,
                           &output.omega, &output.V);
                output.V = std::max(output.V, simd::kLeastVariance);
                z[static_cast<std::size_t>(k)] = output.omega / std::sqrt(output.V);
            }
            node.messages(z.data(), task.target[mu], plus.data(), minus.data());
            for (Index k = 0; k < task.units; ++k) {
                simd::EdgeOutput& output = outputs[static_cast<std::size_t>(k)];
                output.plus = plus[static_cast<std::size_t>(k)];
                output.minus = minus[static_cast<std::size_t>(k)];
                change = std::max(change, kernels.down(edge_row(task, a, mu, k), output, q.data() + k * ld,
                                                       h.data() + k * ld, damping, S.data() + k * ld));
            }
        }
    }

    OutputNode node;
    Matrix<double> S, q, h;
    std::vector<simd::EdgeOutput> outputs;
    std::vector<double> z, plus, minus;
    double change = 0.0;
};

Matrix<double> doubled_exponentials(ConstMatrixView<double> b, Index ld) {
    Matrix<double> out(b.rows, ld);
    for (Index k = 0; k < b.rows; ++k) {
        for (Index i = 0; i < ld; ++i)
            out.view()(k, i) = i < b.cols ? std::exp(2.0 * std::clamp(b(k, i), -kMostTotal, kMostTotal)) : 1.0;
    }
    return out;
}

}  // namespace

Index padded_inputs(Index inputs) { return (inputs + simd::kEdgeLanes - 1) / simd::kEdgeLanes * simd::kEdgeLanes; }

double edge_sweep(const Task& task, const EdgeMessages& a, ConstMatrixView<double> b, double damping,
                  MatrixView<double> S, RunControl& control) {
    const Index P = task.patterns.patterns, row_edges = task.units * task.patterns.inputs;
    const Matrix<double> b2 = doubled_exponentials(b, a.ld);
    const Index pieces = parallel_pieces(P, std::max<Index>(1, kEdgesPerThread / row_edges));
    std::vector<Worker> workers;
    for (Index p = 0; p < pieces; ++p) workers.emplace_back(task, a.ld);
    const Index chunk = std::max<Index>(1, kEdgesBetweenLooks / row_edges) * pieces;
    for (Index first = 0; first < P; first += chunk) {
        const Index count = std::min(chunk, P - first);
        parallel_pieces_of(count, pieces, [&](Index piece, Index begin, Index end) {
            workers[static_cast<std::size_t>(piece)].sweep(task, a, b2, damping, first + begin, first + end);
        });
        control.checkpoint();
    }
    double change = 0.0;
    S.eigen().setZero();
    for (const Worker& worker : workers) {
        change = std::max(change, worker.change);
        S.eigen() += worker.S.view().col_block(0, S.cols).eigen();
    }
    return change;
}

}  // namespace flatcore::wfm
