#include "core/wfm/bethe.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/parallel.hpp"
#include "core/simd/simd.hpp"

namespace flatcore::wfm {

namespace {

constexpr Index kEdgesPerThread = 1 << 12;
constexpr Index kEdgesBetweenLooks = 1 << 19;
constexpr double kLeastPart = 1e-300;
constexpr double kLeastTail = 8.75651076269652e-27;  // e^{−60}, of a difference that cancels

// e_i = e^{−2|x_i|}, so that |tanh x_i| = (1 − e_i)/(1 + e_i) and log 2cosh x_i = |x_i| + log(1 + e_i).
void exponentials(std::vector<double>& x) {
    for (double& value : x) value = -2.0 * std::fabs(value);
    simd::table().functions.exp(static_cast<Index>(x.size()), x.data(), x.data());
}

// One pattern's units: cavity means with the pattern's signs, and the laws of their fields.
class PatternNode {
 public:
    explicit PatternNode(const Task& task)
        : task_(task),
          node_(task.units, task.activation),
          y_(static_cast<std::size_t>(task.units * task.patterns.inputs)),
          e_(static_cast<std::size_t>((task.patterns.inputs + 7) / 8 * 8)),  // whole vectors
          rise_(y_),
          fall_(y_),
          enough_(y_),
          more_(y_) {}

    double sign(Index mu, Index k, Index i) const {
        const Patterns& p = task_.patterns;
        const bool bit = (p.word(mu, p.segment_of(k), i / kWord) >> (i % kWord)) & 1;
        return bit == (task_.sign[mu] > 0) ? 1.0 : -1.0;
    }

    // y = x tanh(b − a) of all edges. Returns Σ [lc2(b) − lc2(b − a)], given the second part of lc2(b), log(1 + e).
    double cavities(Index mu, const EdgeMessages& a, ConstMatrixView<double> b, ConstMatrixView<double> bend) {
        const Index n = task_.patterns.inputs;
        double sum = 0.0;
        for (Index k = 0; k < task_.units; ++k) {
            const double* const row = a.row(mu, k);
            for (Index i = 0; i < n; ++i) e_[static_cast<std::size_t>(i)] = b(k, i) - row[i];
            exponentials(e_);
            for (Index i = 0; i < n; ++i) {
                const double cavity = b(k, i) - row[i];
                double& e = e_[static_cast<std::size_t>(i)];
                at(y_, k, i) = sign(mu, k, i) * std::copysign((1.0 - e) / (1.0 + e), cavity);
                sum += (std::fabs(b(k, i)) - std::fabs(cavity)) + bend(k, i);
                e += 1.0;
            }
            simd::table().functions.log(static_cast<Index>(e_.size()), e_.data(), e_.data());
            for (Index i = 0; i < n; ++i) sum -= e_[static_cast<std::size_t>(i)];
        }
        return sum;
    }

    double normal_partition(Index mu) {
        const Index n = task_.patterns.inputs;
        for (Index k = 0; k < task_.units; ++k) {
            double omega = 0.0, V = 0.0;
            for (Index i = 0; i < n; ++i) {
                const double y = at(y_, k, i);
                omega += y;
                V += 1.0 - y * y;
            }
            node_.z(k, 0) = omega / std::sqrt(std::max(V, simd::kLeastVariance));
        }
        node_.set_target(0, task_.target[mu]);
        node_.messages();
        return node_.log_partition(0);
    }

    double exact_partition(Index mu) {
        const Index n = task_.patterns.inputs;
        const auto square = static_cast<std::size_t>((n + 1) * (n + 1));
        left_.resize(square);
        right_.resize(square);
        for (Index k = 0; k < task_.units; ++k) {
            for (Index i = 0; i < n; ++i) {
                at(rise_, k, i) = 0.5 * (1.0 + at(y_, k, i));
                at(fall_, k, i) = 0.5 * (1.0 - at(y_, k, i));
            }
            majority_tails(n, &at(rise_, k, 0), &at(fall_, k, 0), left_.data(), right_.data(), &at(enough_, k, 0),
                           &at(more_, k, 0));
            const double rise = at(enough_, k, 0) * at(rise_, k, 0) + at(more_, k, 0) * at(fall_, k, 0);
            node_.rise(k, 0) = std::max(rise, kLeastTail);
            node_.fall(k, 0) = std::max(1.0 - rise, kLeastTail);
        }
        node_.set_target(0, task_.target[mu]);
        node_.messages_of_probabilities();
        return node_.log_partition(0);
    }

    // The exact message to a weight.
    double message(Index mu, Index k, Index i) {
        const auto part = [&](double positive) {
            const double negative = std::max(0.0, 1.0 - positive);
            return std::max(node_.plus(k, 0) * positive + node_.minus(k, 0) * negative, kLeastPart);
        };
        const double log_ratio = std::log(part(at(enough_, k, i)) / part(at(more_, k, i)));
        return sign(mu, k, i) * std::clamp(0.5 * log_ratio, -simd::kMostField, simd::kMostField);
    }

 private:
    double& at(std::vector<double>& rows, Index k, Index i) const {
        return rows[static_cast<std::size_t>(k * task_.patterns.inputs + i)];
    }

    const Task& task_;
    OutputNode node_;
    std::vector<double> y_, e_, rise_, fall_, enough_, more_, left_, right_;
};

// log(1 + e) of all fields.
Matrix<double> bends(ConstMatrixView<double> b) {
    Matrix<double> out(b.rows, b.cols);
    for (Index k = 0; k < b.rows; ++k)
        for (Index i = 0; i < b.cols; ++i) out.view()(k, i) = std::log1p(std::exp(-2.0 * std::fabs(b(k, i))));
    return out;
}

// pattern(piece, node, mu) for all patterns.
template <class Pattern>
void each_pattern(const Task& task, Index pieces, RunControl& control, const Pattern& pattern) {
    const Index P = task.patterns.patterns, row_edges = task.units * task.patterns.inputs;
    std::vector<PatternNode> nodes;
    for (Index p = 0; p < pieces; ++p) nodes.emplace_back(task);
    const Index chunk = std::max<Index>(1, kEdgesBetweenLooks / row_edges) * pieces;
    for (Index first = 0; first < P; first += chunk) {
        parallel_pieces_of(std::min(chunk, P - first), pieces, [&](Index piece, Index begin, Index end) {
            for (Index mu = first + begin; mu < first + end; ++mu)
                pattern(piece, nodes[static_cast<std::size_t>(piece)], mu);
        });
        control.checkpoint();
    }
}

Index pieces_of(const Task& task) {
    const Index row_edges = task.units * task.patterns.inputs;
    return parallel_pieces(task.patterns.patterns, std::max<Index>(1, kEdgesPerThread / row_edges));
}

}  // namespace

double edge_bethe(const Task& task, const EdgeMessages& a, ConstMatrixView<double> b, FieldLaw law,
                  RunControl& control) {
    const Index pieces = pieces_of(task);
    const Matrix<double> bend = bends(b);
    std::vector<double> totals(static_cast<std::size_t>(pieces), 0.0);
    each_pattern(task, pieces, control, [&](Index piece, PatternNode& node, Index mu) {
        const double shared = node.cavities(mu, a, b, bend.view());
        totals[static_cast<std::size_t>(piece)] +=
            (law == FieldLaw::normal ? node.normal_partition(mu) : node.exact_partition(mu)) - shared;
    });
    double total = 0.0;
    for (const double part : totals) total += part;
    return total;
}

double exact_sweep(const Task& task, const EdgeMessages& a, ConstMatrixView<double> b, double damping,
                   MatrixView<double> S, RunControl& control) {
    const Index pieces = pieces_of(task), n = task.patterns.inputs;
    const Matrix<double> bend = bends(b);
    std::vector<Matrix<double>> sums;
    for (Index p = 0; p < pieces; ++p) sums.push_back(Matrix<double>::zeros(task.units, n));
    std::vector<double> changes(static_cast<std::size_t>(pieces), 0.0);
    each_pattern(task, pieces, control, [&](Index piece, PatternNode& node, Index mu) {
        node.cavities(mu, a, b, bend.view());
        node.exact_partition(mu);
        double& change = changes[static_cast<std::size_t>(piece)];
        const MatrixView<double> own = sums[static_cast<std::size_t>(piece)].view();
        for (Index k = 0; k < task.units; ++k) {
            for (Index i = 0; i < n; ++i) {
                double& kept = a.row(mu, k)[i];
                const double fresh = node.message(mu, k, i);
                change = std::max(change, std::fabs(std::tanh(fresh) - std::tanh(kept)));
                kept = fresh + damping * (kept - fresh);
                own(k, i) += kept;
            }
        }
    });
    S.eigen().setZero();
    for (const Matrix<double>& part : sums) S.eigen() += part.view().eigen();
    return *std::max_element(changes.begin(), changes.end());
}

}  // namespace flatcore::wfm
