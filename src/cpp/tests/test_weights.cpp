#include <doctest/doctest.h>

#include <Eigen/Dense>
#include <algorithm>
#include <deque>
#include <set>

#include "core/balance.hpp"
#include "core/coupling.hpp"
#include "core/eigen_lapack.hpp"
#include "core/gains.hpp"
#include "core/svd.hpp"
#include "core/symmetric_eigenvalues.hpp"
#include "helpers.hpp"

using namespace flatcore;
using namespace flatcore::testing;

namespace {

Dense orthogonal(Index n, unsigned seed) {
    const Dense q = Eigen::HouseholderQR<Dense>(random_dense(n, n, seed)).householderQ();
    return q;
}

template <class T>
Matrix<T> owned(const Dense& A) {
    Matrix<T> out(A.rows(), A.cols());
    for (Index i = 0; i < A.rows(); ++i)
        for (Index j = 0; j < A.cols(); ++j) out.view()(i, j) = static_cast<T>(A(i, j));
    return out;
}

template <class T>
Dense values_of(const Matrix<T>& A) {
    return dense(A.view());
}

// A p × q matrix with the given singular values.
Dense with_values(Index p, Index q, const std::vector<double>& s) {
    Dense middle = Dense::Zero(p, q);
    for (std::size_t i = 0; i < s.size(); ++i) middle(static_cast<Index>(i), static_cast<Index>(i)) = s[i];
    return orthogonal(p, 1) * middle * orthogonal(q, 2);
}

template <class T>
void check_svd(Index p, Index q, const std::vector<double>& s) {
    CAPTURE(p);
    CAPTURE(q);
    RunControl control;
    const Dense A = with_values(p, q, s);
    const ThinSvd<T> svd = thin_svd<T>(owned<T>(A), control);
    const Dense U = values_of(svd.U), Vt = values_of(svd.Vt);
    REQUIRE(svd.s.size() == s.size());
    Eigen::VectorXd found(static_cast<Index>(s.size()));
    for (std::size_t i = 0; i < s.size(); ++i) found(static_cast<Index>(i)) = static_cast<double>(svd.s[i]);
    // backward stability: every error is a modest multiple of eps‖A‖
    const double tolerance = 50 * eps<T>() * std::max(1.0, s.front());
    for (std::size_t i = 0; i < s.size(); ++i) CHECK(std::abs(found(static_cast<Index>(i)) - s[i]) <= tolerance);
    CHECK(max_difference(U * found.asDiagonal() * Vt, A) <= tolerance);
    const auto r = static_cast<Index>(s.size());
    CHECK(max_difference(U.transpose() * U, Dense::Identity(r, r)) <= 50 * eps<T>());
    CHECK(max_difference(Vt * Vt.transpose(), Dense::Identity(r, r)) <= 50 * eps<T>());
}

// Layers with their own storage; weights alternate between the layouts.
class Layers {
 public:
    void add(const Dense& W, const std::vector<double>& b = {}, bool skip = false) {
        weights_.emplace_back(W, kLayouts[weights_.size() % 4]);
        biases_.push_back(b);
        const auto view = weights_.back().view();
        layers_.push_back({{view.data, Scalar::f64, view.rows, view.cols, view.row_stride, view.col_stride},
                           b.empty() ? nullptr : biases_.back().data(),
                           skip});
    }
    Chain chain() const { return Chain(layers_); }
    MatrixView<double> weight(std::size_t j) const { return weights_[j].view(); }
    std::vector<double>& bias(std::size_t j) { return biases_[j]; }

 private:
    std::deque<Stored<double>> weights_;
    std::deque<std::vector<double>> biases_;
    std::vector<Layer> layers_;
};

double jacobi_norm(const Dense& A) { return Eigen::JacobiSVD<Dense>(A).singularValues()(0); }

}  // namespace

TEST_CASE_TEMPLATE("thin_svd recovers singular values and orthonormal vectors", T, float, double) {
    check_svd<T>(5, 3, {4.0, 1.0, 0.25});
    check_svd<T>(3, 5, {4.0, 1.0, 0.25});
    check_svd<T>(4, 4, {2.0, 2.0, 1.0, 1.0});
    check_svd<T>(4, 6, {3.0, 1.0, 0.0, 0.0});
    check_svd<T>(1, 6, {2.0});
    check_svd<T>(6, 1, {2.0});
    check_svd<T>(1, 1, {1.5});
    check_svd<T>(3, 2, {0.0, 0.0});
}

TEST_CASE("thin_svd rejects empty and NaN matrices and reports a solver that fails") {
    RunControl control;
    CHECK_THROWS_AS(thin_svd<double>(Matrix<double>(0, 3), control), InvalidArgument);
    CHECK_THROWS_AS(thin_svd<double>(owned<double>(filled(2, 2, kNaN)), control), InvalidArgument);
    CHECK_THROWS_AS(thin_svd<float>(owned<float>(filled(2, 2, kNaN)), control), InvalidArgument);
    LapackTable table = eigen_lapack();
    table.dgesdd = [](char*, int*, int*, double*, int*, double*, double*, int*, double*, int*, double* work, int*, int*,
                      int* info) {
        work[0] = 1.0;
        *info = 2;
    };
    const TableScope scope(table);
    CHECK_THROWS_AS(thin_svd<double>(Matrix<double>::zeros(2, 2), control), NumericalFailure);
}

TEST_CASE("symmetric_eigenvalues: a reflected diagonal's, ascending; one triangle is read") {
    RunControl control;
    Eigen::VectorXd values = random_dense(7, 1, 3);
    const Eigen::VectorXd u = random_dense(7, 1, 4).normalized();
    const Dense Q = Dense::Identity(7, 7) - 2.0 * u * u.transpose();
    Dense A = Q * values.asDiagonal() * Q;
    std::sort(values.begin(), values.end());
    A.triangularView<Eigen::StrictlyUpper>().setConstant(kNaN);  // LAPACK's upper triangle is the row-major lower one
    const std::vector<double> found = symmetric_eigenvalues(owned<double>(A), control);
    REQUIRE(found.size() == 7);
    for (Index i = 0; i < 7; ++i)
        CHECK(std::abs(found[static_cast<std::size_t>(i)] - values[i]) <= 100 * eps<double>());
    CHECK(symmetric_eigenvalues(Matrix<double>(0, 0), control).empty());
    CHECK_THROWS_AS(symmetric_eigenvalues(Matrix<double>(2, 3), control), InvalidArgument);
}

TEST_CASE("layer_balance is the Frobenius distance of the two Gram matrices") {
    const Dense W1 = random_dense(4, 3, 1), W2 = random_dense(4, 4, 2), W3 = random_dense(2, 4, 3);
    const Eigen::VectorXd b1 = random_dense(4, 1, 4), b2 = random_dense(4, 1, 5);
    Layers layers;
    layers.add(W1, {b1.data(), b1.data() + 4});
    layers.add(W2, {b2.data(), b2.data() + 4}, true);
    layers.add(W3);
    RunControl control;
    const auto balance = layer_balance(layers.chain(), control);
    REQUIRE(balance.size() == 2);
    const Dense L2 = W2 + Dense::Identity(4, 4);  // the skip layer's link
    const Dense above[] = {L2.transpose() * L2, W3.transpose() * W3};
    const Dense below[] = {W1 * W1.transpose() + b1 * b1.transpose(), L2 * L2.transpose() + b2 * b2.transpose()};
    for (std::size_t j = 0; j < 2; ++j) {
        const double gap = (above[j] - below[j]).norm(), scale = std::hypot(above[j].norm(), below[j].norm());
        CHECK(std::abs(balance[j].gap - gap) <= 100 * eps<double>() * scale);
        CHECK(std::abs(balance[j].relative - gap / scale) <= 100 * eps<double>());
    }
}

TEST_CASE("layer_balance of balanced, one-sided and zero layers") {
    RunControl control;
    const Dense Q = orthogonal(3, 1), S = Eigen::Vector3d(2.0, 1.0, 0.5).asDiagonal();
    Layers balanced;  // W_1 = Q S, W_2 = P S Qᵀ: W_2ᵀ W_2 = Q S² Qᵀ = W_1 W_1ᵀ
    balanced.add(Q * S);
    balanced.add(orthogonal(3, 2) * S * Q.transpose());
    const auto zero_gap = layer_balance(balanced.chain(), control);
    CHECK(zero_gap[0].gap <= 100 * eps<double>());
    CHECK(zero_gap[0].relative <= 100 * eps<double>());

    Layers zeros;
    zeros.add(Dense::Zero(3, 2));
    zeros.add(Dense::Zero(4, 3));
    zeros.add(random_dense(2, 4, 3));
    const auto balance = layer_balance(zeros.chain(), control);
    CHECK(balance[0].gap == 0.0);
    CHECK(balance[0].relative == 0.0);
    CHECK(balance[1].relative == 1.0);

    Layers one;
    one.add(Q);
    CHECK(layer_balance(one.chain(), control).empty());
}

TEST_CASE("partial_norms are the spectral norms of the partial products") {
    const Dense W1 = random_dense(5, 3, 1), W2 = random_dense(5, 5, 2), W3 = random_dense(2, 5, 3);
    Layers layers;
    layers.add(W1, std::vector<double>(5, 7.0));  // biases take no part
    layers.add(W2, {}, true);
    layers.add(W3);
    RunControl control;
    const PartialNorms norms = partial_norms(layers.chain(), control);
    const Dense L2 = W2 + Dense::Identity(5, 5);
    const double whole = jacobi_norm(W3 * L2 * W1);
    const double bottom[] = {1.0, jacobi_norm(W1), jacobi_norm(L2 * W1), whole};
    const double top[] = {whole, jacobi_norm(W3 * L2), jacobi_norm(W3), 1.0};
    REQUIRE(norms.bottom.size() == 4);
    REQUIRE(norms.top.size() == 4);
    for (std::size_t j = 0; j < 4; ++j) {
        // errors of the products relative to ∏‖W_j‖, which is at most 100 here
        CHECK(std::abs(norms.bottom[j] - bottom[j]) <= 1e4 * eps<double>());
        CHECK(std::abs(norms.top[j] - top[j]) <= 1e4 * eps<double>());
    }
}

TEST_CASE("partial_norms of a single layer and of a chain with a zero layer") {
    RunControl control;
    Layers one;
    one.add(Dense::Constant(1, 1, -3.0));
    const PartialNorms single = partial_norms(one.chain(), control);
    CHECK(single.bottom == std::vector<double>{1.0, 3.0});
    CHECK(single.top == std::vector<double>{3.0, 1.0});
    Layers zeros;
    zeros.add(Dense::Constant(2, 2, 1.0));
    zeros.add(Dense::Zero(3, 2));
    const PartialNorms vanishing = partial_norms(zeros.chain(), control);
    CHECK(vanishing.bottom[2] == 0.0);
    CHECK(vanishing.top == std::vector<double>{0.0, 0.0, 1.0});
}

TEST_CASE_TEMPLATE("overlaps are moduli of inner products", T, float, double) {
    const Dense U = random_dense(7, 3, 1), Vt = random_dense(2, 7, 2);
    RunControl control;
    for (const Layout layout : kLayouts) {
        const Stored<T> u(U, layout), vt(Vt, layout);
        const Stored<double> out(filled(3, 2, kNaN), Layout::row_padded);
        overlaps<T>(u.read(), vt.read(), out.view(), control);
        const Dense expected = plain_product(U.transpose(), Vt.transpose()).cwiseAbs();
        CHECK(max_difference(dense(out.view()), expected) <= 9 * eps<T>() * 7 * max_abs(U) * max_abs(Vt));
        CHECK_THROWS_AS(overlaps<T>(u.read().transposed(), vt.read(), out.view(), control), InvalidArgument);
    }
}

namespace {

struct PathProblem {
    std::vector<std::vector<double>> sigma;
    std::vector<Dense> pairs;
    std::deque<Stored<double>> storage;

    std::vector<ConstMatrixView<double>> views() {
        storage.clear();
        std::vector<ConstMatrixView<double>> out;
        for (const Dense& pair : pairs) {
            storage.emplace_back(pair, kLayouts[storage.size() % 4]);
            out.push_back(storage.back().read());
        }
        return out;
    }
    double weight(const std::vector<Index>& path) const {
        double product = 1.0;
        for (std::size_t j = 0; j < path.size(); ++j) {
            const double s = sigma[j][static_cast<std::size_t>(path[j])];
            product *= s > 0.0 ? s : 0.0;
            if (j > 0) product *= pairs[j - 1](path[j - 1], path[j]);
        }
        return product;
    }
};

// Positive random entries, a fifth of them replaced by `excluded`.
PathProblem random_problem(const std::vector<Index>& widths, unsigned seed) {
    std::mt19937 generator(seed);
    std::uniform_real_distribution<double> uniform(0.01, 1.0);
    std::discrete_distribution<int> kind{8, 1, 1};
    const double bad[] = {0.0, kNaN};
    const auto entry = [&](double second_bad) {
        const int k = kind(generator);
        const double value = uniform(generator);
        return k == 0 ? value : (k == 1 ? bad[0] : second_bad);
    };
    PathProblem out;
    for (const Index width : widths) {
        std::vector<double> values;
        for (Index i = 0; i < width; ++i) values.push_back(3.0 * entry(kNaN));
        out.sigma.push_back(values);
    }
    for (std::size_t j = 0; j + 1 < widths.size(); ++j) {
        Dense pair(widths[j], widths[j + 1]);
        for (Index i = 0; i < pair.size(); ++i) pair.data()[i] = entry(0.5);
        out.pairs.push_back(pair);
    }
    return out;
}

// The best of all ∏ k_j paths, counted through like the digits of a number.
Path enumerate(const PathProblem& problem) {
    Path best;
    double best_weight = 0.0;
    std::vector<Index> path(problem.sigma.size(), 0);
    for (;;) {
        const double weight = problem.weight(path);
        if (weight > best_weight) {
            best_weight = weight;
            best.indices = path;
        }
        std::size_t digit = 0;
        while (digit < path.size() && ++path[digit] == static_cast<Index>(problem.sigma[digit].size()))
            path[digit++] = 0;
        if (digit == path.size()) break;
    }
    best.log_strength = std::log(best_weight);
    return best;
}

}  // namespace

TEST_CASE("strongest_path finds the best of all paths") {
    const std::vector<std::vector<Index>> shapes = {{1},       {5},          {3, 4},         {1, 1, 1},
                                                    {4, 3, 5}, {3, 4, 2, 3}, {2, 2, 2, 2, 2}};
    for (const auto& shape : shapes) {
        for (unsigned seed = 1; seed <= 40; ++seed) {
            CAPTURE(shape.size());
            CAPTURE(seed);
            PathProblem problem = random_problem(shape, seed);
            const Path expected = enumerate(problem), found = strongest_path(problem.sigma, problem.views());
            CHECK(found.indices == expected.indices);  // random weights: no ties
            if (expected.indices.empty()) continue;
            // a sum of 2M − 1 logarithms below 5 in modulus
            CHECK(std::abs(found.log_strength - expected.log_strength) <= 100 * eps<double>());
        }
    }
}

TEST_CASE("strongest_path survives weights far outside the range of double") {
    PathProblem problem;
    problem.sigma.assign(6, {1e-100, 1e-90});
    problem.pairs.assign(5, Dense::Constant(2, 2, 0.5));
    const Path path = strongest_path(problem.sigma, problem.views());
    CHECK(path.indices == std::vector<Index>(6, 1));
    CHECK(path.log_strength == doctest::Approx(-540.0 * std::log(10.0) - 5.0 * std::log(2.0)).epsilon(1e-14));
}

TEST_CASE("strongest_path is empty where no path has a positive weight, and checks its shapes") {
    PathProblem problem;
    problem.sigma = {{1.0, 1.0}, {1.0}};
    problem.pairs = {Dense::Zero(2, 1)};
    CHECK(strongest_path(problem.sigma, problem.views()).indices.empty());
    problem.pairs = {Dense::Ones(2, 1)};
    problem.sigma = {{1.0, 1.0}, {-1.0}};
    CHECK(strongest_path(problem.sigma, problem.views()).indices.empty());
    problem.pairs = {Dense::Ones(1, 2)};
    CHECK_THROWS_AS(strongest_path(problem.sigma, problem.views()), InvalidArgument);
    CHECK_THROWS_AS(strongest_path(problem.sigma, {}), InvalidArgument);
    CHECK_THROWS_AS(strongest_path({}, {}), InvalidArgument);
}

TEST_CASE("gain_profile follows a vector through the layers") {
    const Dense W1 = random_dense(4, 3, 1), W2 = random_dense(4, 4, 2), W3 = random_dense(2, 4, 3);
    Layers layers;
    layers.add(W1, {1.0, 2.0, 3.0, 4.0});  // biases take no part
    layers.add(W2, {}, true);
    layers.add(W3);
    RunControl control;
    const GainProfile profile = gain_profile(layers.chain(), {0.6, 0.0, -0.8}, control);
    Eigen::VectorXd z = Eigen::Vector3d(0.6, 0.0, -0.8);
    const Dense links[] = {W1, W2 + Dense::Identity(4, 4), W3};
    for (std::size_t j = 0; j < 3; ++j) {
        const Eigen::VectorXd image = links[j] * z, next = image.normalized();
        const double gain = image.norm();
        const double residual = (links[j].transpose() * next - gain * z).norm() / gain;
        CHECK(std::abs(profile.gains[j] - gain) <= 100 * eps<double>() * links[j].norm());
        CHECK(std::abs(profile.residuals[j] - residual) <= 100 * eps<double>() * links[j].norm() / gain);
        z = next;
    }
    CHECK_THROWS_AS(gain_profile(layers.chain(), {1.0, 0.0}, control), InvalidArgument);
}

TEST_CASE("gain_profile of aligned singular vectors: gains are singular values, residuals vanish") {
    const Dense Q0 = orthogonal(3, 1), Q1 = orthogonal(3, 2), Q2 = orthogonal(3, 3);
    const Dense S = Eigen::Vector3d(4.0, 2.0, 1.0).asDiagonal();
    Layers layers;
    layers.add(Q1 * S * Q0.transpose());
    layers.add(Q2 * S * Q1.transpose());
    RunControl control;
    const GainProfile profile = gain_profile(layers.chain(), {Q0(0, 1), Q0(1, 1), Q0(2, 1)}, control);
    for (std::size_t j = 0; j < 2; ++j) {
        CHECK(std::abs(profile.gains[j] - 2.0) <= 100 * eps<double>());
        CHECK(profile.residuals[j] <= 100 * eps<double>());
    }
}

TEST_CASE("gain_profile beyond a zero layer is undefined") {
    Layers layers;
    layers.add(random_dense(3, 2, 1));
    layers.add(Dense::Zero(3, 3));
    layers.add(random_dense(2, 3, 2));
    RunControl control;
    const GainProfile profile = gain_profile(layers.chain(), {1.0, 0.0}, control);
    CHECK(profile.gains[0] > 0.0);
    CHECK(std::isfinite(profile.residuals[0]));
    CHECK(profile.gains[1] == 0.0);
    CHECK(std::isnan(profile.residuals[1]));
    CHECK(std::isnan(profile.gains[2]));
    CHECK(std::isnan(profile.residuals[2]));
}

TEST_CASE("fingerprint changes with any entry of a small layer, and only then") {
    Layers layers;
    layers.add(random_dense(4, 3, 1), {1.0, 2.0, 3.0, 4.0});
    layers.add(random_dense(5, 4, 2));  // padded rows
    const Chain chain = layers.chain();
    const auto original = chain.fingerprint();
    std::set<std::uint64_t> seen{original};
    const auto nudged = [&](double& entry) {
        const double saved = entry;
        entry = std::nextafter(saved, 10.0);
        seen.insert(chain.fingerprint());
        entry = saved;
    };
    for (std::size_t j = 0; j < 2; ++j) {
        const auto W = layers.weight(j);
        for (Index r = 0; r < W.rows; ++r)
            for (Index c = 0; c < W.cols; ++c) nudged(W(r, c));
    }
    for (double& b : layers.bias(0)) nudged(b);
    CHECK(seen.size() == 1 + 12 + 20 + 4);
    CHECK(chain.fingerprint() == original);
    layers.weight(1).data[4] = 1.0;  // padding behind the first row
    CHECK(chain.fingerprint() == original);
}

TEST_CASE("fingerprint reads float32 weights, and notices a training step of a large layer") {
    const Dense W = random_dense(97, 83, 1);
    static_assert(97 * 83 > 2 * Chain::kSamples);
    const Stored<float> w(W, Layout::col_padded);
    const auto view = w.view();
    const Chain chain({{{view.data, Scalar::f32, 97, 83, view.row_stride, view.col_stride}, nullptr, false}});
    const auto original = chain.fingerprint();
    CHECK(chain.fingerprint() == original);
    for (Index i = 0; i < 97; ++i)
        for (Index j = 0; j < 83; ++j) view(i, j) *= 1.0F + 1e-6F;
    CHECK(chain.fingerprint() != original);
}

TEST_CASE("a chain checks its layers and adds the identity to skip layers") {
    const Stored<double> a(random_dense(4, 3, 1), Layout::row), b(random_dense(4, 4, 2), Layout::col);
    const auto layer = [](const Stored<double>& W, bool skip) {
        const auto view = W.view();
        return Layer{{view.data, Scalar::f64, view.rows, view.cols, view.row_stride, view.col_stride}, nullptr, skip};
    };
    CHECK_THROWS_AS(Chain({}), InvalidArgument);
    CHECK_THROWS_AS(Chain({layer(b, false), layer(a, false)}), InvalidArgument);
    CHECK_THROWS_AS(Chain({layer(a, true)}), InvalidArgument);
    CHECK_THROWS_AS(Chain({layer(Stored<double>(Dense(0, 3), Layout::row), false)}), InvalidArgument);
    const Chain chain({layer(a, false), layer(b, true)});
    CHECK(chain.depth() == 2);
    CHECK(chain.num_parameters() == 28);
    CHECK(chain.weight_offset(2) == 12);
    CHECK_FALSE(chain.homogeneous());
    CHECK(values_of(chain.link<double>(1)) == dense(a.view()));
    CHECK(values_of(chain.link<double>(2)) == dense(b.view()) + Dense::Identity(4, 4));
}
