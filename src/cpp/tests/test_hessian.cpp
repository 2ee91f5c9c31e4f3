// The oracle: residuals R(θ) = Φ̃(θ) L − T of small chains, evaluated by the definition on hyper-dual numbers
//   a + x ε₁ + y ε₂ + z ε₁ε₂,  ε₁² = ε₂² = 0,
// which carry the exact first and second derivatives of R along. The loss is f = Σ φ(R), φ(r) = r² + r⁴/4, hence
//   ∇f = Jᵀ φ'(R),   Gauss–Newton = Jᵀ diag φ''(R) J,   Hessian = Gauss–Newton + Σ φ'(R_i) ∇²R_i.
// The kernels see the same loss as a function of Φ̃ (output end) or of (Φ̃ L)ᵀ (input end).
#include <doctest/doctest.h>

#include <deque>

#include "core/hessian.hpp"
#include "helpers.hpp"

using namespace flatcore;
using namespace flatcore::testing;

namespace {

struct HyperDual {
    double a = 0.0, x = 0.0, y = 0.0, z = 0.0;
};
HyperDual operator+(const HyperDual& p, const HyperDual& q) { return {p.a + q.a, p.x + q.x, p.y + q.y, p.z + q.z}; }
HyperDual operator*(const HyperDual& p, const HyperDual& q) {
    return {p.a * q.a, p.a * q.x + p.x * q.a, p.a * q.y + p.y * q.a, p.a * q.z + p.x * q.y + p.y * q.x + p.z * q.a};
}

// What kind of chain: widths d_0 … d_M and, per layer, whether it has a bias and a skip link.
struct Model {
    const char* name;
    std::vector<Index> widths;
    std::vector<int> bias, skip;

    std::size_t depth() const { return widths.size() - 1; }
    bool homogeneous() const {
        for (const int b : bias)
            if (b) return true;
        return false;
    }
    Index inputs() const { return widths.front() + (homogeneous() ? 1 : 0); }
    Index outputs() const { return widths.back(); }
    Index parameters() const {
        Index count = 0;
        for (std::size_t j = 0; j < depth(); ++j) count += widths[j + 1] * (widths[j] + (bias[j] ? 1 : 0));
        return count;
    }
};

const Model kModels[] = {
    {"depth 1", {3, 2}, {0}, {0}},
    {"depth 1, bias", {3, 2}, {1}, {0}},
    {"depth 1, skip and bias", {3, 3}, {1}, {1}},
    {"two layers", {3, 4, 2}, {0, 0}, {0, 0}},
    {"bottleneck of width 1", {3, 1, 2}, {1, 0}, {0, 0}},
    {"scalars", {1, 1, 1, 1}, {0, 1, 1}, {0, 1, 0}},
    {"every layer has a bias", {3, 4, 2, 3}, {1, 1, 1}, {0, 0, 0}},
    {"bias of the first layer", {2, 3, 3, 2}, {1, 0, 0}, {0, 0, 0}},
    {"bias of the last layer", {2, 3, 3, 2}, {0, 0, 1}, {0, 0, 0}},
    {"skips", {3, 3, 3, 3}, {0, 0, 0}, {1, 0, 1}},
    {"skips and biases", {4, 3, 3, 5, 2}, {1, 1, 0, 1}, {0, 1, 0, 0}},
};

// One column of Φ̃(θ) L: h_0 = ℓ, h_j = W_j h_{j-1} (+ h_{j-1}) + b_j λ with λ the homogeneous coordinate of ℓ.
std::vector<HyperDual> apply(const Model& model, const std::vector<HyperDual>& theta, const Eigen::VectorXd& column) {
    std::vector<HyperDual> h;
    for (Index i = 0; i < model.widths[0]; ++i) h.push_back({column(i)});
    const HyperDual lambda{model.homogeneous() ? column(model.widths[0]) : 0.0};
    auto weight = theta.begin();
    for (std::size_t j = 0; j < model.depth(); ++j) {
        std::vector<HyperDual> next =
            model.skip[j] ? h : std::vector<HyperDual>(static_cast<std::size_t>(model.widths[j + 1]));
        for (HyperDual& entry : next)
            for (const HyperDual& from : h) entry = entry + *weight++ * from;
        if (model.bias[j])
            for (HyperDual& entry : next) entry = entry + *weight++ * lambda;
        h = next;
    }
    return h;
}

std::vector<HyperDual> apply(const Model& model, const std::vector<HyperDual>& theta, const Dense& L) {
    std::vector<HyperDual> out;  // column by column
    for (Index c = 0; c < L.cols(); ++c)
        for (const HyperDual& entry : apply(model, theta, Eigen::VectorXd(L.col(c)))) out.push_back(entry);
    return out;
}

std::vector<HyperDual> constants(const Eigen::VectorXd& theta) {
    std::vector<HyperDual> out;
    for (Index i = 0; i < theta.size(); ++i) out.push_back({theta(i)});
    return out;
}

Dense image(const Model& model, const Eigen::VectorXd& theta, const Dense& L) {
    const auto entries = apply(model, constants(theta), L);
    Dense out(model.outputs(), L.cols());
    for (Index i = 0; i < out.size(); ++i) out.data()[i] = entries[static_cast<std::size_t>(i)].a;
    return out;
}

// φ' and φ'' of every residual
Dense slope(const Dense& R) { return 2.0 * R.array() + R.array().cube(); }
Dense bend(const Dense& R) { return 2.0 + 3.0 * R.array().square(); }

// A chain with its weights in memory, the loss, and the vector θ of its parameters. Odd layers are stored as float32,
// in all layouts; every weight is a float32 number, so both precisions mean the same chain.
class Problem {
 public:
    explicit Problem(const Model& model_, unsigned seed = 1, bool interpolating = false)
        : model(model_), theta(scaled_parameters(model_, seed)), L(random_dense(model_.inputs(), 3, seed + 1)) {
        R = Dense::Zero(model.outputs(), 3);
        if (!interpolating) R = image(model, theta, L) - random_dense(model.outputs(), 3, seed + 2);
        store();
    }

    Chain chain() const { return Chain(layers_); }

    const Model& model;
    Eigen::VectorXd theta;
    Dense L, R;

 private:
    static Eigen::VectorXd scaled_parameters(const Model& model, unsigned seed) {
        Eigen::VectorXd out = random_dense(model.parameters(), 1, seed);
        return out / 2.0;  // exact in binary
    }
    void store() {
        Index offset = 0;
        for (std::size_t j = 0; j < model.depth(); ++j) {
            const Index rows = model.widths[j + 1], cols = model.widths[j];
            const RowMajor<double> W = Eigen::Map<const RowMajor<double>>(theta.data() + offset, rows, cols);
            offset += rows * cols;
            const Dense b = model.bias[j] ? Dense(theta.segment(offset, rows)) : Dense(0, 1);
            offset += b.rows();
            if (j % 2 == 0)
                add_layer(single_, Dense(W), b, j);
            else
                add_layer(wide_, Dense(W), b, j);
        }
    }
    template <class S>
    void add_layer(std::deque<Stored<S>>& storage, const Dense& W, const Dense& b, std::size_t j) {
        storage.emplace_back(b, Layout::col);
        const S* bias = b.rows() > 0 ? storage.back().view().data : nullptr;
        storage.emplace_back(W, kLayouts[(j + W.rows()) % 4]);
        const auto view = storage.back().view();
        layers_.push_back({{view.data, scalar_of<S>(), view.rows, view.cols, view.row_stride, view.col_stride},
                           bias,
                           model.skip[j] != 0});
    }

    std::deque<Stored<float>> single_;
    std::deque<Stored<double>> wide_;
    std::vector<Layer> layers_;
};

struct Derivatives {
    Eigen::VectorXd gradient;
    Dense hessian, gauss_newton;
};

// R_i's derivatives in parameters a and b at once.
std::vector<HyperDual> seeded(const Problem& problem, Index a, Index b) {
    auto theta = constants(problem.theta);
    theta[static_cast<std::size_t>(a)].x = 1.0;
    theta[static_cast<std::size_t>(b)].y = 1.0;
    return apply(problem.model, theta, problem.L);
}

Derivatives oracle(const Problem& problem) {
    const Index P = problem.model.parameters();
    const Dense first = slope(problem.R), second = bend(problem.R);
    Derivatives out{Eigen::VectorXd::Zero(P), Dense::Zero(P, P), Dense::Zero(P, P)};
    for (Index a = 0; a < P; ++a) {
        for (Index b = 0; b < P; ++b) {
            const auto entries = seeded(problem, a, b);
            double curved = 0.0, flat = 0.0, steep = 0.0;
            for (Index i = 0; i < problem.R.size(); ++i) {
                const HyperDual& r = entries[static_cast<std::size_t>(i)];
                flat += second.data()[i] * r.x * r.y;
                curved += first.data()[i] * r.z;
                steep += first.data()[i] * r.x;
            }
            out.gradient(a) = steep;
            out.gauss_newton(a, b) = flat;
            out.hessian(a, b) = flat + curved;
        }
    }
    return out;
}

// G at the far end.
Dense loss_gradient(const Problem& problem, NarrowEnd end) {
    const Dense first = slope(problem.R);
    return end == NarrowEnd::output ? Dense(first * problem.L.transpose()) : Dense(first.transpose());
}

// 𝓗[X] = (φ''(R) ∘ (X L)) Lᵀ at the output end, φ''(R)ᵀ ∘ X at the input end, for each of the stacked X.
template <class T>
LossHessian<T> loss_hessian(const Problem& problem, NarrowEnd end) {
    return [&problem, end](MatrixView<T> rows, Index directions) {
        const Index m = end == NarrowEnd::output ? problem.model.outputs() : problem.L.cols();
        REQUIRE(rows.rows == directions * m);
        REQUIRE(rows.cols == (end == NarrowEnd::output ? problem.model.inputs() : problem.model.outputs()));
        const Dense second = bend(problem.R);
        for (Index i = 0; i < directions; ++i) {
            const auto block = rows.row_block(i * m, m);
            const Dense X = dense(block);
            const Dense Y = end == NarrowEnd::output ? Dense(second.cwiseProduct(X * problem.L) * problem.L.transpose())
                                                     : Dense(second.transpose().cwiseProduct(X));
            block.eigen() = Y.template cast<T>();
        }
    };
}

ChainHessian<double> kernel_of(const Problem& problem, NarrowEnd end) {
    RunControl control;
    const Stored<double> factor(problem.L.transpose(), Layout::row_padded);
    const Stored<double> G(loss_gradient(problem, end), Layout::col_padded);
    ChainHessian<double> kernel(problem.chain(), end,
                                end == NarrowEnd::input ? factor.read() : ConstMatrixView<double>(), control);
    kernel.set_loss_gradient(G.read(), control);
    return kernel;
}

template <class T>
Dense gradient_of(const ChainHessian<T>& kernel) {
    std::vector<T> out(static_cast<std::size_t>(kernel.chain().num_parameters()), static_cast<T>(kNaN));
    RunControl control;
    kernel.gradient(out.data(), control);
    return dense(MatrixView<T>(out.data(), static_cast<Index>(out.size()), 1));
}

// The images of the rows of D, as rows.
template <class T>
Dense product_of(const ChainHessian<T>& kernel, const Dense& D, Curvature curvature, const LossHessian<T>& loss) {
    const Stored<T> directions(D, Layout::row_padded), out(filled(D.rows(), D.cols(), kNaN), Layout::row_padded);
    RunControl control;
    kernel.product(directions.read(), out.view(), curvature, loss, control);
    CHECK(out.count_nan() == out.padding());
    return dense(out.view());
}

// Weights are of size 1/2 and widths at most 5, so the sums behind an entry exceed the largest entry by a modest
// factor: 500 eps of the largest entry.
template <class T>
double tolerance_for(const Dense& expected) {
    return 500 * eps<T>() * std::max(1.0, max_abs(expected));
}

template <class T>
void check_kernel(const ChainHessian<T>& kernel, const Problem& problem, NarrowEnd end, const Derivatives& expected) {
    const Index P = problem.model.parameters();
    CHECK(max_difference(gradient_of(kernel), expected.gradient) <= tolerance_for<T>(expected.gradient));
    const auto loss = loss_hessian<T>(problem, end);
    const Dense directions = random_dense(3, P, 99);
    for (const Dense& D : {Dense(Dense::Identity(P, P)), directions, Dense(directions.row(1))}) {
        const Dense full = D * expected.hessian, flat = D * expected.gauss_newton;
        CHECK(max_difference(product_of<T>(kernel, D, Curvature::hessian, loss), full) <= tolerance_for<T>(full));
        CHECK(max_difference(product_of<T>(kernel, D, Curvature::gauss_newton, loss), flat) <= tolerance_for<T>(flat));
    }
}

constexpr NarrowEnd kEnds[] = {NarrowEnd::output, NarrowEnd::input};

}  // namespace

TEST_CASE("the oracle's gradient agrees with central differences of the loss") {
    const Problem problem(kModels[10]);
    const Dense target = image(problem.model, problem.theta, problem.L) - problem.R;
    const auto loss = [&](const Eigen::VectorXd& theta) {
        const Dense R = image(problem.model, theta, problem.L) - target;
        return (R.array().square() + R.array().square().square() / 4.0).sum();
    };
    const Derivatives exact = oracle(problem);
    constexpr double h = 1e-5;  // error h² f''' + eps f / h, both near 1e-9 of the scale
    for (Index i = 0; i < problem.theta.size(); ++i) {
        const Eigen::VectorXd step = h * Eigen::VectorXd::Unit(problem.theta.size(), i);
        const double difference = (loss(problem.theta + step) - loss(problem.theta - step)) / (2.0 * h);
        CHECK(std::abs(difference - exact.gradient(i)) <= 1e-7 * max_abs(exact.gradient));
    }
}

TEST_CASE("gradient, Hessian and Gauss–Newton products of every kind of chain, from both ends") {
    for (const Model& model : kModels) {
        for (const unsigned seed : {1U, 20U}) {
            const Problem problem(model, seed);
            const Derivatives expected = oracle(problem);
            for (const NarrowEnd end : kEnds) {
                CAPTURE(model.name);
                CAPTURE(seed);
                CAPTURE(static_cast<int>(end));
                const ChainHessian<double> kernel = kernel_of(problem, end);
                CHECK_FALSE(kernel.at_interpolation());
                check_kernel<double>(kernel, problem, end, expected);
                check_kernel<float>(ChainHessian<float>(kernel), problem, end, expected);
            }
        }
    }
}

TEST_CASE("a float32 kernel built from scratch") {
    const Problem problem(kModels[10]);
    const Derivatives expected = oracle(problem);
    RunControl control;
    const Stored<float> factor(problem.L.transpose(), Layout::row);
    ChainHessian<float> kernel(problem.chain(), NarrowEnd::input, factor.read(), control);
    const Stored<float> G(loss_gradient(problem, NarrowEnd::input), Layout::row);
    kernel.set_loss_gradient(G.read(), control);
    check_kernel<float>(kernel, problem, NarrowEnd::input, expected);
}

TEST_CASE("end_to_end is Φ̃ or its whitened transpose") {
    for (const Model& model : kModels) {
        CAPTURE(model.name);
        const Problem problem(model);
        const Dense phi = image(model, problem.theta, Dense::Identity(model.inputs(), model.inputs()));
        const ChainHessian<double> output = kernel_of(problem, NarrowEnd::output);
        const ChainHessian<double> input = kernel_of(problem, NarrowEnd::input);
        const Matrix<double> forward = output.end_to_end(), whitened = input.end_to_end();
        const Dense psi = (phi * problem.L).transpose();
        CHECK(max_difference(dense(forward.view()), phi) <= tolerance_for<double>(phi));
        CHECK(max_difference(dense(whitened.view()), psi) <= tolerance_for<double>(psi));
        CHECK(output.narrow_width() == model.outputs());
        CHECK(output.far_width() == model.inputs());
        CHECK(input.narrow_width() == 3);
        CHECK(input.far_width() == model.outputs());
    }
}

TEST_CASE("at interpolation the Hessian is the Gauss–Newton matrix and the gradient vanishes") {
    for (const Model& model : {kModels[6], kModels[10]}) {
        const Problem problem(model, 3, true);
        const Derivatives expected = oracle(problem);
        for (const NarrowEnd end : kEnds) {
            const ChainHessian<double> kernel = kernel_of(problem, end);
            CHECK(kernel.at_interpolation());
            CHECK(max_abs(gradient_of(kernel)) == 0.0);
            check_kernel<double>(kernel, problem, end, expected);
        }
    }
}

TEST_CASE("a new loss gradient replaces the old one") {
    const Problem problem(kModels[10]);
    const Problem flat(kModels[10], 1, true);  // the same chain and L, R = 0
    RunControl control;
    ChainHessian<double> kernel = kernel_of(problem, NarrowEnd::output);
    const Stored<double> zero(loss_gradient(flat, NarrowEnd::output), Layout::row);
    kernel.set_loss_gradient(zero.read(), control);
    check_kernel<double>(kernel, flat, NarrowEnd::output, oracle(flat));
    const Stored<double> G(loss_gradient(problem, NarrowEnd::output), Layout::row);
    kernel.set_loss_gradient(G.read(), control);
    check_kernel<double>(kernel, problem, NarrowEnd::output, oracle(problem));
}

namespace {

const Model kLarge{"large", {40, 30, 30, 50, 20}, {1, 1, 0, 1}, {0, 1, 0, 0}};

// vᵀ H w from one evaluation: the ε₁ε₂ part of f(θ + ε₁ v + ε₂ w).
double bilinear_form(const Problem& problem, const Dense& v, const Dense& w, bool curved) {
    auto theta = constants(problem.theta);
    for (std::size_t i = 0; i < theta.size(); ++i) {
        theta[i].x = v(static_cast<Index>(i));
        theta[i].y = w(static_cast<Index>(i));
    }
    const auto entries = apply(problem.model, theta, problem.L);
    const Dense first = slope(problem.R), second = bend(problem.R);
    double sum = 0.0;
    for (Index i = 0; i < problem.R.size(); ++i) {
        const HyperDual& r = entries[static_cast<std::size_t>(i)];
        sum += second.data()[i] * r.x * r.y + (curved ? first.data()[i] * r.z : 0.0);
    }
    return sum;
}

}  // namespace

TEST_CASE("a larger chain: quadratic forms, symmetry, and blocks of directions against single ones") {
    const Problem problem(kLarge);
    const Index P = kLarge.parameters();
    const Dense D = random_dense(2, P, 5);
    for (const NarrowEnd end : kEnds) {
        const ChainHessian<double> kernel = kernel_of(problem, end);
        const auto loss = loss_hessian<double>(problem, end);
        for (const Curvature curvature : {Curvature::hessian, Curvature::gauss_newton}) {
            const Dense HD = product_of<double>(kernel, D, curvature, loss);
            const Dense form = D * HD.transpose();
            // sums of P products of sizes |v_i| and |(Hw)_i|, each with a relative error of a few hundred eps
            const double tolerance =
                500 * eps<double>() * D.rowwise().norm().maxCoeff() * HD.rowwise().norm().maxCoeff();
            CHECK(std::abs(form(0, 1) - form(1, 0)) <= tolerance);
            for (Index a = 0; a < 2; ++a)
                for (Index b = 0; b < 2; ++b) {
                    const double exact = bilinear_form(problem, D.row(a), D.row(b), curvature == Curvature::hessian);
                    CHECK(std::abs(form(a, b) - exact) <= tolerance);
                }
            const Dense alone = product_of<double>(kernel, D.row(1), curvature, loss);
            CHECK(max_difference(alone, HD.row(1)) <= 500 * eps<double>() * max_abs(HD));
        }
    }
}

TEST_CASE("no direction: the product is empty and the loss is not asked") {
    const Problem problem(kModels[3]);
    const ChainHessian<double> kernel = kernel_of(problem, NarrowEnd::output);
    RunControl control;
    const Index P = problem.model.parameters();
    kernel.product(
        ConstMatrixView<double>(nullptr, 0, P), MatrixView<double>(nullptr, 0, P), Curvature::hessian,
        [](MatrixView<double>, Index) { FAIL("asked"); }, control);
}

// Gradient flow conserves W_{j+1}ᵀ W_{j+1} − W_j W_jᵀ − b_j b_jᵀ: with G_j the gradient blocks, its rate of change is
// the symmetric part of W_{j+1}ᵀ G_{j+1} − G_j W_jᵀ − g_j b_jᵀ, which is zero.
TEST_CASE("the gradient conserves the balance of consecutive layers") {
    const Model& model = kModels[10];
    const Problem problem(model);
    const Chain chain = problem.chain();
    for (const NarrowEnd end : kEnds) {
        const Dense gradient = gradient_of(kernel_of(problem, end));
        const auto G = [&](Index j) -> Dense { return dense(chain.weight_block(gradient.data(), j)); };
        for (Index j = 1; j < chain.depth(); ++j) {
            const Matrix<double> above = chain.link<double>(j + 1), below = chain.link<double>(j);
            Dense rate = dense(above.view()).transpose() * G(j + 1) - G(j) * dense(below.view()).transpose();
            if (model.bias[static_cast<std::size_t>(j - 1)])
                rate -= gradient.block(chain.bias_offset(j), 0, chain.dim(j), 1) *
                        problem.theta.segment(chain.bias_offset(j), chain.dim(j)).transpose();
            CHECK(max_abs(rate + rate.transpose()) <= 500 * eps<double>() * max_abs(gradient));
        }
    }
}

TEST_CASE("the kernel rejects arguments that contradict the chain") {
    const Problem problem(kModels[10]);
    const Index P = problem.model.parameters();
    RunControl control;
    const Stored<double> factor(problem.L.transpose(), Layout::row);
    CHECK_THROWS_AS(ChainHessian<double>(problem.chain(), NarrowEnd::input, factor.read().col_block(0, 4), control),
                    InvalidArgument);
    CHECK_THROWS_AS(ChainHessian<double>(problem.chain(), NarrowEnd::input, factor.read().row_block(0, 0), control),
                    InvalidArgument);
    ChainHessian<double> kernel(problem.chain(), NarrowEnd::output, {}, control);
    const Stored<double> D(Dense::Zero(2, P), Layout::row), out(Dense::Zero(2, P), Layout::row);
    const auto product = [&](ConstMatrixView<double> in, MatrixView<double> image) {
        kernel.product(in, image, Curvature::hessian, [](MatrixView<double>, Index) {}, control);
    };
    CHECK_THROWS_AS(kernel.gradient(out.view().data, control), InvalidArgument);
    CHECK_THROWS_AS(product(D.read(), out.view()), InvalidArgument);
    const Stored<double> G(Dense::Zero(2, 5), Layout::row);
    CHECK_THROWS_AS(kernel.set_loss_gradient(G.read().col_block(0, 4), control), InvalidArgument);
    CHECK_THROWS_AS(kernel.set_loss_gradient(G.read().row_block(0, 1), control), InvalidArgument);
    kernel.set_loss_gradient(G.read(), control);
    CHECK_NOTHROW(product(D.read(), out.view()));
    CHECK_THROWS_AS(product(D.read().col_block(0, P - 1), out.view()), InvalidArgument);
    CHECK_THROWS_AS(product(D.read().row_block(0, 1), out.view()), InvalidArgument);
    const Stored<double> columns(Dense::Zero(2, P), Layout::col);
    CHECK_THROWS_AS(product(columns.read(), out.view()), InvalidArgument);
}
