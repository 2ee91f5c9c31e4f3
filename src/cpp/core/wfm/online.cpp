#include "core/wfm/online.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/errors.hpp"
#include "core/parallel.hpp"
#include "core/simd/online.hpp"
#include "core/wfm/majority_odds.hpp"

namespace flatcore::wfm {

namespace {

constexpr Index kPatternsPerCheckpoint = 64;
constexpr Index kWordsPerThread = Index{1} << 15;      // of 32 weights each: 0.03 ms at least
constexpr Index kWordsPerCheckpoint = Index{1} << 25;  // some 0.05 s

Index padded_inputs(const PatternLayout& layout) { return layout.words() * kWord; }

// K rows of n entries into or out of rows of padded_inputs.
template <class T>
std::vector<T> padded_rows(const OnlinePatterns& data, const T* rows) {
    const Index n = data.inputs, ld = padded_inputs(data);
    std::vector<T> out(static_cast<std::size_t>(data.units * ld), T(0));
    for (Index k = 0; k < data.units; ++k) std::copy_n(rows + k * n, n, out.data() + k * ld);
    return out;
}

template <class T>
void unpadded(const OnlinePatterns& data, const std::vector<T>& padded, T* rows) {
    const Index n = data.inputs, ld = padded_inputs(data);
    for (Index k = 0; k < data.units; ++k) std::copy_n(padded.data() + k * ld, n, rows + k * n);
}

template <class T>
void sign_words(Index n, const T* H, std::uint32_t* signs) {
    std::fill_n(signs, (n + kWord - 1) / kWord, std::uint32_t{0});
    for (Index i = 0; i < n; ++i) signs[i / kWord] |= std::uint32_t{H[i] > T(0)} << (i % kWord);
}

double sign(double h) { return h < 0.0 ? -1.0 : 1.0; }

// The units that least action moves, and how: unit, and the sign c of the step c ξ_k. σh is computed into h.
class LeastAction {
 public:
    explicit LeastAction(const OnlinePatterns& data)
        : units_(data.units), parity_(data.parity), moved_(static_cast<std::size_t>(data.units)) {}

    // move(k, c) for each; whether the pattern was wrong.
    template <class Move>
    bool repair(const double* h, double label, const Move& move) {
        return parity_ ? repair_parity(h, label, move) : repair_majority(h, label, move);
    }

    static Index wrong(Index units, const double* h, double label) {
        Index out = 0;
        for (Index k = 0; k < units; ++k) out += !(label * h[k] > 0.0);  // NaN is wrong too
        return out;
    }

    // A product with a field of zero, or NaN, is wrong whatever the label.
    static bool wrong_parity(Index units, const double* h, double label) {
        double product = label;
        for (Index k = 0; k < units; ++k) product *= h[k] > 0.0 ? 1.0 : h[k] < 0.0 ? -1.0 : 0.0;
        return product <= 0.0;
    }

 private:
    template <class Move>
    bool repair_parity(const double* h, double label, const Move& move) {
        if (!wrong_parity(units_, h, label)) return false;
        Index least = 0;
        for (Index k = 1; k < units_; ++k)
            if (std::abs(h[k]) < std::abs(h[least])) least = k;
        move(least, -sign(h[least]));
        return true;
    }

    template <class Move>
    bool repair_majority(const double* h, double label, const Move& move) {
        const Index few = wrong(units_, h, label) - (units_ - 1) / 2;
        if (few <= 0) return false;
        std::fill(moved_.begin(), moved_.end(), char(0));
        for (Index step = 0; step < few; ++step) {
            Index best = -1;
            for (Index k = 0; k < units_; ++k) {
                if (label * h[k] > 0.0 || moved_[static_cast<std::size_t>(k)]) continue;
                if (best < 0 || label * h[k] > label * h[best]) best = k;
            }
            moved_[static_cast<std::size_t>(best)] = 1;
            move(best, label);
        }
        return true;
    }

    Index units_;
    bool parity_;
    std::vector<char> moved_;
};

// step(mu, h) for every pattern in order; how many returned true.
template <class Units, class Step>
Index over_patterns(const OnlinePatterns& data, Order order, Units& units, RunControl& control, const Step& step) {
    std::vector<double> h(static_cast<std::size_t>(data.units));
    Index steps = 0;
    for (Index at = 0; at < order.count; ++at) {
        if (at % kPatternsPerCheckpoint == 0) control.checkpoint();
        const Index mu = order.patterns[at];
        units.fields(mu, h.data());
        steps += step(mu, h.data());
    }
    return steps;
}

template <class Units, class T>
Index least_action(const OnlinePatterns& data, Order order, T* weights, RunControl& control) {
    Units units(data, weights);
    LeastAction rule(data);
    const Index steps = over_patterns(data, order, units, control, [&](Index mu, const double* h) {
        return rule.repair(h, data.labels[mu], [&](Index k, double c) { units.add(mu, k, c); });
    });
    units.write(weights);
    return steps;
}

bool wrong(bool parity, Index units, double label, const double* h) {
    return parity ? LeastAction::wrong_parity(units, h, label) : LeastAction::wrong(units, h, label) > (units - 1) / 2;
}

// Σ_i ξ_i sgn H_ki for all units, from sign words.
void binary_fields(const OnlinePatterns& data, Index mu, const std::uint32_t* signs, double* h) {
    const auto& kernels = simd::online();
    const Index words = data.words();
    for (Index k = 0; k < data.units; ++k)
        h[k] = static_cast<double>(data.inputs - 2 * kernels.differing(words, data.row(mu, k), signs + k * words));
}

}  // namespace

// -- units ---------------------------------------------------------------------------------------------------

ContinuousUnits::ContinuousUnits(const OnlinePatterns& data, const double* w)
    : data_(data),
      padded_(padded_inputs(data)),
      scale_(1.0 / std::sqrt(static_cast<double>(data.inputs))),
      w_(padded_rows(data, w)) {}

void ContinuousUnits::fields(Index mu, double* h) const {
    const auto& kernels = simd::online();
    for (Index k = 0; k < data_.units; ++k)
        h[k] = scale_ * kernels.dot(data_.words(), data_.row(mu, k), w_.data() + k * padded_);
}

void ContinuousUnits::add(Index mu, Index unit, double c) {
    simd::online().add(data_.inputs, data_.row(mu, unit), c * scale_, w_.data() + unit * padded_);
}

void ContinuousUnits::write(double* w) const { unpadded(data_, w_, w); }

void ContinuousUnits::normalise() {
    for (Index k = 0; k < data_.units; ++k) {
        double* const row = unit(k);
        double square = 0.0;
        for (Index i = 0; i < data_.inputs; ++i) square += row[i] * row[i];
        if (square == 0.0) continue;
        const double factor = std::sqrt(static_cast<double>(data_.inputs) / square);
        for (Index i = 0; i < data_.inputs; ++i) row[i] *= factor;
    }
}

BinaryUnits::BinaryUnits(const OnlinePatterns& data, const std::int32_t* H)
    : data_(data),
      padded_(padded_inputs(data)),
      H_(padded_rows(data, H)),
      signs_(static_cast<std::size_t>(data.units * data.words())) {
    for (Index k = 0; k < data.units; ++k)
        sign_words(data.inputs, H_.data() + k * padded_, signs_.data() + k * data.words());
}

void BinaryUnits::fields(Index mu, double* h) const { binary_fields(data_, mu, signs_.data(), h); }

void BinaryUnits::add(Index mu, Index unit, double sign) {
    simd::online().turn(data_.inputs, data_.row(mu, unit), sign > 0.0 ? 2 : -2, H_.data() + unit * padded_,
                        signs_.data() + unit * data_.words());
}

void BinaryUnits::write(std::int32_t* H) const { unpadded(data_, H_, H); }

// -- epochs --------------------------------------------------------------------------------------------------

Index least_action_epoch(const OnlinePatterns& data, Order order, std::int32_t* H, RunControl& control) {
    return least_action<BinaryUnits>(data, order, H, control);
}

Index least_action_epoch(const OnlinePatterns& data, Order order, double* w, RunControl& control) {
    return least_action<ContinuousUnits>(data, order, w, control);
}

Index margin_epoch(const OnlinePatterns& data, Order order, double delta, double* w, RunControl& control) {
    require(!data.parity, "margins are those of a majority");
    ContinuousUnits units(data, w);
    std::vector<char> robust(static_cast<std::size_t>(data.units));
    const Index steps = over_patterns(data, order, units, control, [&](Index mu, const double* h) {
        const double label = data.labels[mu];
        Index missing = (data.units + 1) / 2;
        for (Index k = 0; k < data.units; ++k) missing -= robust[static_cast<std::size_t>(k)] = label * h[k] > delta;
        for (Index step = 0; step < missing; ++step) {
            Index best = -1;
            for (Index k = 0; k < data.units; ++k)
                if (!robust[static_cast<std::size_t>(k)] && (best < 0 || label * h[k] > label * h[best])) best = k;
            robust[static_cast<std::size_t>(best)] = 1;
            units.add(mu, best, label * (delta - label * h[best]));
        }
        return missing > 0;
    });
    units.write(w);
    return steps;
}

Index perturbed_epoch(const OnlinePatterns& data, Order order, double delta, double step, double* w,
                      RunControl& control) {
    require(!data.parity, "the perturbed gradient is that of a majority");
    ContinuousUnits units(data, w);
    MajorityOdds odds(data.units);
    std::vector<double> a(static_cast<std::size_t>(data.units)), slope(static_cast<std::size_t>(data.units));
    over_patterns(data, order, units, control, [&](Index mu, const double* h) {
        const double label = data.labels[mu];
        for (Index k = 0; k < data.units; ++k) a[static_cast<std::size_t>(k)] = label * h[k] / delta;
        odds.log_slopes(a.data(), slope.data());
        for (Index k = 0; k < data.units; ++k)
            units.add(mu, k, step / delta * label * slope[static_cast<std::size_t>(k)]);
        return true;
    });
    units.write(w);
    return order.count;
}

// -- replicas ------------------------------------------------------------------------------------------------

namespace {

// One replica: hidden reals, their signs, and the sum of a batch's steps.
class Replica {
 public:
    Replica(const OnlinePatterns& data, double* H, const std::int64_t* order)
        : data_(data),
          H_(H),
          order_(order),
          ld_(padded_inputs(data)),
          step_(static_cast<std::size_t>(data.units * ld_)),
          signs_(static_cast<std::size_t>(data.units * data.words())),
          h_(static_cast<std::size_t>(data.units)),
          rule_(data) {
        resign();
    }

    // A part of a batch: its steps add up until the batch ends.
    void learn(Index first, Index last) {
        for (Index at = first; at < last; ++at) {
            const Index mu = order_[at];
            binary_fields(data_, mu, signs_.data(), h_.data());
            errors_ += rule_.repair(h_.data(), data_.labels[mu], [&](Index k, double c) {
                simd::online().add(data_.inputs, data_.row(mu, k), 2.0 * c, step_.data() + k * ld_);
            });
        }
    }

    // How many patterns of the batch were wrong.
    Index end_batch() {
        if (errors_ == 0) return 0;
        for (Index k = 0; k < data_.units; ++k)
            for (Index i = 0; i < data_.inputs; ++i)
                H_[k * data_.inputs + i] += step_[static_cast<std::size_t>(k * ld_ + i)];
        std::fill(step_.begin(), step_.end(), 0.0);
        resign();
        return std::exchange(errors_, 0);
    }

    bool positive(Index k, Index i) const {
        return (signs_[static_cast<std::size_t>(k * data_.words() + i / kWord)] >> (i % kWord)) & 1;
    }

    // H += λ[pull − W], W = sgn H.
    void pull(double lambda, const double* target) {
        for (Index k = 0; k < data_.units; ++k)
            for (Index i = 0; i < data_.inputs; ++i)
                H_[k * data_.inputs + i] += lambda * (target[k * data_.inputs + i] - (positive(k, i) ? 1.0 : -1.0));
        resign();
    }

 private:
    void resign() {
        for (Index k = 0; k < data_.units; ++k)
            sign_words(data_.inputs, H_ + k * data_.inputs, signs_.data() + k * data_.words());
    }

    const OnlinePatterns& data_;
    double* H_;
    const std::int64_t* order_;
    Index ld_;
    std::vector<double> step_;
    std::vector<std::uint32_t> signs_;
    std::vector<double> h_;
    LeastAction rule_;
    Index errors_ = 0;
};

// pull_i = tanh(γ y W̄_i): y W̄_i is an odd or even number between −y and y, so that a table holds all values.
void pulls(const OnlinePatterns& data, const std::vector<Replica>& replicas, double gamma, double* pull) {
    const Index y = static_cast<Index>(replicas.size());
    std::vector<double> table(static_cast<std::size_t>(y + 1));
    for (Index plus = 0; plus <= y; ++plus)
        table[static_cast<std::size_t>(plus)] = std::tanh(gamma * static_cast<double>(2 * plus - y));
    for (Index k = 0; k < data.units; ++k)
        for (Index i = 0; i < data.inputs; ++i) {
            Index plus = 0;
            for (const Replica& replica : replicas) plus += replica.positive(k, i);
            pull[k * data.inputs + i] = table[static_cast<std::size_t>(plus)];
        }
}

}  // namespace

Index replicated_epoch(const OnlinePatterns& data, const std::int64_t* orders, const ReplicaStep& step, double* H,
                       RunControl& control) {
    const Index y = step.replicas, weights = data.units * data.inputs;
    std::vector<Replica> replicas;
    replicas.reserve(static_cast<std::size_t>(y));
    for (Index a = 0; a < y; ++a) replicas.emplace_back(data, H + a * weights, orders + a * data.patterns);
    std::vector<double> pull(static_cast<std::size_t>(weights));
    std::vector<Index> errors(static_cast<std::size_t>(y), 0);
    // Words counted and signs taken by a replica between two meetings; few are not worth a second thread.
    const Index work = std::max<Index>(1, std::min(step.batch, data.patterns) * data.units * data.words() + weights);
    const Index grain = std::max<Index>(1, kWordsPerThread / work);
    const Index together = std::max<Index>(1, kWordsPerCheckpoint / (y * data.units * data.words()));
    for (Index first = 0; first < data.patterns; first += step.batch) {
        const Index last = std::min(data.patterns, first + step.batch);
        for (Index part = first; part < last; part += together) {
            parallel_ranges(y, grain, [&](Index begin, Index end) {
                for (Index a = begin; a < end; ++a) {
                    Replica& replica = replicas[static_cast<std::size_t>(a)];
                    replica.learn(part, std::min(last, part + together));
                    if (part + together >= last) errors[static_cast<std::size_t>(a)] += replica.end_batch();
                }
            });
            control.checkpoint();
        }
        pulls(data, replicas, step.gamma, pull.data());
        parallel_ranges(y, grain, [&](Index begin, Index end) {
            for (Index a = begin; a < end; ++a) replicas[static_cast<std::size_t>(a)].pull(step.lambda, pull.data());
        });
        control.checkpoint();
    }
    Index total = 0;
    for (const Index each : errors) total += each;
    return total;
}

// -- errors --------------------------------------------------------------------------------------------------

void count_errors(const Patterns& patterns, const std::int8_t* labels, bool parity, Index units, Index machines,
                  const double* w, std::int64_t* errors, RunControl& control) {
    const Index P = patterns.patterns, n = patterns.inputs;
    const Index work = std::max<Index>(1, P * units * patterns.words());  // words met by a machine
    const Index together = std::clamp<Index>(kWordsPerCheckpoint / work, 1, machines);
    for (Index first = 0; first < machines; first += together) {
        const Index count = std::min(together, machines - first);
        parallel_ranges(count, std::max<Index>(1, kWordsPerThread / work), [&](Index begin, Index end) {
            Matrix<double> h(P, units);
            RunControl quiet;  // the caller's may be asked by its own thread only
            for (Index b = first + begin; b < first + end; ++b) {
                fields<double>(patterns, {w + b * units * n, units, n}, h.view(), quiet);
                errors[b] = 0;
                for (Index mu = 0; mu < P; ++mu) errors[b] += wrong(parity, units, labels[mu], h.data() + mu * units);
            }
        });
        control.checkpoint(static_cast<double>(first + count) / static_cast<double>(machines));
    }
}

}  // namespace flatcore::wfm
