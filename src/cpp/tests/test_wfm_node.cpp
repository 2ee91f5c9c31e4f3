// The output node of a majority of equal units, whose laws are binomial, in both tails and for many units.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "core/wfm/node.hpp"

using namespace flatcore;

namespace {

// log Σ_{c >= least} C(K, c) pᶜ (1 − p)^{K − c} with p = Φ(z).
double log_tail(Index K, Index least, double z) {
    const double log_p = wfm::log_normal(z), log_q = wfm::log_normal(-z);
    std::vector<double> terms;
    double top = -HUGE_VAL;
    for (Index c = least; c <= K; ++c) {
        const auto n = static_cast<double>(K), j = static_cast<double>(c);
        terms.push_back(std::lgamma(n + 1.0) - std::lgamma(j + 1.0) - std::lgamma(n - j + 1.0) + j * log_p +
                        (n - j) * log_q);
        top = std::max(top, terms.back());
    }
    double sum = 0.0;
    for (const double term : terms) sum += std::exp(term - top);
    return top + std::log(sum);
}

}  // namespace

TEST_CASE("the node of a majority of equal units has binomial laws") {
    for (const Index K : {3, 7, 9, 45, 101, 301}) {
        for (const double z : {-1000.0, -30.0, -6.0, -1.0, 0.0, 0.5, 30.0}) {
            CAPTURE(K);
            CAPTURE(z);
            wfm::OutputNode node(K, wfm::Activation::majority);
            for (Index k = 0; k < K; ++k)
                for (Index lane = 0; lane < wfm::OutputNode::kLanes; ++lane) node.z(k, lane) = lane == 3 ? z : 0.1;
            node.messages();
            const double log_z = log_tail(K, (K + 1) / 2, z);
            // lgamma(K) is good to eps of its size, and log Φ(z) to eps of its own.
            CHECK(std::abs(node.log_partition(3) - log_z) <= 1e-13 * static_cast<double>(K) + 1e-14 * std::abs(log_z));
            const double odds = log_tail(K - 1, (K - 1) / 2, z) - log_tail(K - 1, (K + 1) / 2, z);
            for (Index k = 0; k < K; ++k) {
                const double found = std::log(node.plus(k, 3) / node.minus(k, 3));
                CHECK(std::abs(found - std::min(odds, 60.0)) <= 1e-12 * (1.0 + static_cast<double>(K) + z * z));
                CHECK(node.plus(k, 3) + node.minus(k, 3) == doctest::Approx(1.0).epsilon(1e-15));
            }
            CHECK(std::abs(node.log_partition(0) - log_tail(K, (K + 1) / 2, 0.1)) <= 1e-13 * static_cast<double>(K));
        }
    }
}

TEST_CASE("parity of certain units keeps the smallest chance") {
    wfm::OutputNode node(3, wfm::Activation::parity);
    for (Index k = 0; k < 3; ++k)
        for (Index lane = 0; lane < wfm::OutputNode::kLanes; ++lane) node.z(k, lane) = k == 0 ? -30.0 : 35.0;
    node.messages();
    CHECK(node.log_partition(0) == doctest::Approx(wfm::log_normal(-30.0)).epsilon(1e-12));
}
