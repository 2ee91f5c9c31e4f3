// The oracle is the full product (itself tested against hyper-dual numbers): with V the matrix of lifted unit vectors,
//   VᵀV = I,   project = Vᵀ,   V R Vᵀ = H,   H D = 0 for the annihilated directions, which complete V to a basis.
#include <doctest/doctest.h>

#include <deque>
#include <memory>

#include "core/dual.hpp"
#include "core/reduced_hessian.hpp"
#include "helpers.hpp"

using namespace flatcore;
using namespace flatcore::testing;

namespace {

struct Model {
    const char* name;
    std::vector<Index> widths;
    std::vector<int> bias, skip;

    Index depth() const { return static_cast<Index>(bias.size()); }
    bool homogeneous() const {
        for (const int b : bias)
            if (b) return true;
        return false;
    }
};

const Model kModels[] = {
    {"depth 1", {5, 2}, {0}, {0}},
    {"depth 1, bias", {2, 5}, {1}, {0}},
    {"wide middle", {4, 7, 2}, {0, 0}, {0, 0}},
    {"every layer has a bias", {4, 6, 5, 3}, {1, 1, 1}, {0, 0, 0}},
    {"some biases and a skip", {6, 5, 5, 2}, {0, 1, 0}, {0, 1, 0}},
    {"bottleneck", {4, 1, 6, 4}, {0, 0, 1}, {0, 0, 0}},
    {"scalars", {1, 1, 1}, {1, 0}, {0, 1}},
};

// A chain with float32 and float64 layers, and a factor of three columns for the input end.
struct Problem {
    explicit Problem(const Model& model) : L(random_dense(model.widths[0] + (model.homogeneous() ? 1 : 0), 3, 7)) {
        std::vector<Layer> layers;
        for (Index j = 0; j < model.depth(); ++j) {
            const auto at = static_cast<std::size_t>(j);
            const Dense W = random_dense(model.widths[at + 1], model.widths[at], 10 + static_cast<unsigned>(j)) / 2.0;
            weights.emplace_back(W, kLayouts[at % 4]);
            biases.emplace_back(random_dense(W.rows(), 1, 20 + static_cast<unsigned>(j)), Layout::col);
            const auto view = weights.back().view();
            layers.push_back({{view.data, Scalar::f32, view.rows, view.cols, view.row_stride, view.col_stride},
                              model.bias[at] ? biases.back().view().data : nullptr,
                              model.skip[at] != 0});
        }
        chain = std::make_unique<Chain>(std::move(layers));
    }

    std::deque<Stored<float>> weights, biases;
    Dense L;
    std::unique_ptr<Chain> chain;
};

// A symmetric positive definite 𝓗 of the far rows: row i of a direction is multiplied by C + i.
template <class T>
LossHessian<T> loss_hessian(Index width) {
    const Dense root = random_dense(width, width, 5);
    const Dense C = root * root.transpose() / static_cast<double>(width);
    return [C](MatrixView<T> rows, Index directions) {
        const Dense X = dense(rows);
        Dense Y = X * C;
        const Index m = rows.rows / directions;
        for (Index i = 0; i < rows.rows; ++i) Y.row(i) += static_cast<double>(i % m) * X.row(i);
        rows.eigen() = Y.cast<T>();
    };
}

std::shared_ptr<ChainHessian<double>> full_kernel(const Problem& problem, NarrowEnd end, double size) {
    RunControl control;
    const Stored<double> factor(problem.L.transpose(), Layout::row);
    auto kernel = std::make_shared<ChainHessian<double>>(
        *problem.chain, end, end == NarrowEnd::input ? factor.read() : ConstMatrixView<double>(), control);
    const Stored<double> G(size * random_dense(kernel->narrow_width(), kernel->far_width(), 9), Layout::row);
    kernel->set_loss_gradient(G.read(), control);
    return kernel;
}

// Rows of `in` through one of the kernel's maps of rows to rows.
template <class T, class Map>
Dense mapped(const Dense& in, Index width, const Map& map) {
    const Stored<T> source(in, Layout::row_padded), target(filled(in.rows(), width, kNaN), Layout::row_padded);
    map(source.read(), target.view());
    CHECK(target.count_nan() == target.padding());
    return dense(target.view());
}

template <class T>
struct Maps {
    const ReducedHessian<T>& reduced;
    mutable RunControl control;

    Index N() const { return reduced.dimension(); }
    Index P() const { return reduced.full().chain().num_parameters(); }
    Dense lift(const Dense& z) const {
        return mapped<T>(z, P(), [&](auto in, auto out) { reduced.lift(in, out, control); });
    }
    Dense project(const Dense& D) const {
        return mapped<T>(D, N(), [&](auto in, auto out) { reduced.project(in, out, control); });
    }
    Dense product(const Dense& z, const LossHessian<T>& loss) const {
        return mapped<T>(z, N(), [&](auto in, auto out) { reduced.product(in, out, loss, control); });
    }
    // All annihilated directions as rows.
    Dense annihilated() const {
        const Chain& chain = reduced.full().chain();
        std::vector<Eigen::RowVectorXd> rows;
        for (Index j = 1; j <= chain.depth(); ++j)
            for (Index i = 0; i < reduced.num_annihilated(j); ++i) {
                std::vector<T> direction(static_cast<std::size_t>(P()), T(0));
                T* bias = chain.layer(j).bias ? direction.data() + chain.bias_offset(j) : nullptr;
                reduced.annihilated(j, i, chain.weight_block(direction.data(), j), bias, control);
                rows.push_back(dense(MatrixView<T>(direction.data(), 1, P())).row(0));
            }
        Dense out(static_cast<Index>(rows.size()), P());
        for (std::size_t i = 0; i < rows.size(); ++i) out.row(static_cast<Index>(i)) = rows[i];
        return out;
    }
};

Dense full_matrix(const ChainHessian<double>& kernel, Curvature curvature, const LossHessian<double>& loss) {
    const Index P = kernel.chain().num_parameters();
    RunControl control;
    return mapped<double>(Dense::Identity(P, P), P,
                          [&](auto in, auto out) { kernel.product(in, out, curvature, loss, control); });
}

// Entries are sums of at most a few hundred terms of the size of the largest: 2000 eps of it.
template <class T>
double tolerance(double size) {
    return 2000 * eps<T>() * std::max(1.0, size);
}

template <class T>
void check_reduced(const ReducedHessian<T>& reduced, const Dense& H, const LossHessian<T>& loss) {
    const Maps<T> maps{reduced, {}};
    const Index N = maps.N(), P = maps.P();
    const Dense lifted = maps.lift(Dense::Identity(N, N));  // Vᵀ
    CHECK(max_difference(lifted * lifted.transpose(), Dense::Identity(N, N)) <= tolerance<T>(1.0));
    CHECK(max_difference(maps.project(Dense::Identity(P, P)), lifted.transpose()) <= tolerance<T>(1.0));
    const Dense R = maps.product(Dense::Identity(N, N), loss);
    CHECK(max_difference(R, R.transpose()) <= tolerance<T>(max_abs(H)));
    CHECK(max_difference(lifted.transpose() * R * lifted, H) <= tolerance<T>(max_abs(H)));
    const Dense z = random_dense(3, N, 3), outside = maps.annihilated();
    CHECK(max_difference(maps.product(z, loss), z * R) <= tolerance<T>(10 * max_abs(H)));
    CHECK(outside.rows() == P - N);
    CHECK(max_abs(outside * H) <= tolerance<T>(max_abs(H)));
    CHECK(max_difference(outside * outside.transpose(), Dense::Identity(P - N, P - N)) <= tolerance<T>(1.0));
    CHECK(max_abs(outside * lifted.transpose()) <= tolerance<T>(1.0));
}

constexpr NarrowEnd kEnds[] = {NarrowEnd::output, NarrowEnd::input};

}  // namespace

TEST_CASE("the reduced Hessian is the Hessian on its subspace, and nothing lies outside") {
    for (const Model& model : kModels) {
        const Problem problem(model);
        for (const NarrowEnd end : kEnds) {
            for (const double size : {1.0, 0.0}) {
                const auto full = full_kernel(problem, end, size);
                const auto full32 = std::make_shared<ChainHessian<float>>(*full);
                const auto loss = loss_hessian<double>(full->far_width());
                for (const Curvature curvature : {Curvature::hessian, Curvature::gauss_newton}) {
                    CAPTURE(model.name);
                    CAPTURE(static_cast<int>(end));
                    CAPTURE(static_cast<int>(curvature));
                    const Dense H = full_matrix(*full, curvature, loss);
                    RunControl control;
                    const ReducedHessian<double> reduced(full, curvature, control);
                    check_reduced<double>(reduced, H, loss);
                    check_reduced<float>(ReducedHessian<float>(reduced, full32), H,
                                         loss_hessian<float>(full->far_width()));
                }
            }
        }
    }
}

// Twelve layers of 120 for 32 directions: two threads take six layers each. One direction is worth one thread.
TEST_CASE("many directions together, layers side by side, and one by one") {
    const ThreadScope scope(2);
    Model model{"deep", {8}, std::vector<int>(12, 0), std::vector<int>(12, 0)};
    model.widths.insert(model.widths.end(), 11, 120);
    model.widths.push_back(16);
    const Problem problem(model);
    const auto full = full_kernel(problem, NarrowEnd::output, 1.0);
    const auto loss = loss_hessian<double>(full->far_width());
    RunControl control;
    const ReducedHessian<double> reduced(full, Curvature::hessian, control);
    const Maps<double> maps{reduced, {}};
    const Dense z = random_dense(32, maps.N(), 3), together = maps.product(z, loss);
    Dense alone(32, maps.N());
    for (Index i = 0; i < 32; ++i) alone.row(i) = maps.product(z.row(i), loss).row(0);
    CHECK(max_abs(alone) > 0.0);
    CHECK(max_difference(together, alone) <= 1e-11 * max_abs(alone));
    CHECK(maps.product(z, loss) == together);
}

TEST_CASE("pull_back is the adjoint of end_to_end_change") {
    for (const Model& model : kModels) {
        const Problem problem(model);
        for (const NarrowEnd end : kEnds) {
            CAPTURE(model.name);
            const auto full = full_kernel(problem, end, 1.0);
            RunControl control;
            const ReducedHessian<double> reduced(full, Curvature::hessian, control);
            const Index m = full->narrow_width(), q = full->far_width(), N = reduced.dimension();
            const Stored<double> z(random_dense(2, N, 1), Layout::row), far(random_dense(2 * m, q, 2), Layout::row);
            const Stored<double> back(filled(2, N, kNaN), Layout::row);
            const Matrix<double> change = reduced.end_to_end_change(z.read(), control);
            reduced.pull_back(far.read(), back.view(), control);
            for (Index i = 0; i < 2; ++i) {
                const double left = dense(change.view())
                                        .middleRows(i * m, m)
                                        .cwiseProduct(dense(far.view()).middleRows(i * m, m))
                                        .sum();
                const double right = dense(z.view()).row(i).dot(dense(back.view()).row(i));
                CHECK(std::abs(left - right) <= tolerance<double>(static_cast<double>(N)));
            }
        }
    }
}

TEST_CASE("Gram matrices of the partial products by their definition") {
    for (const Model& model : kModels) {
        CAPTURE(model.name);
        const Problem problem(model);
        const Chain& chain = *problem.chain;
        const Index extra = model.homogeneous() ? 1 : 0, M = chain.depth();
        const auto link = [&](Index j) {  // [[W, b], [0, 1]]
            const Matrix<double> W = chain.link<double>(j);
            const std::vector<double> b = chain.bias<double>(j);
            Dense out = Dense::Zero(W.rows() + extra, W.cols() + extra);
            out.topLeftCorner(W.rows(), W.cols()) = dense(W.view());
            if (extra) out(W.rows(), W.cols()) = 1.0;
            for (std::size_t i = 0; i < b.size(); ++i) out(static_cast<Index>(i), W.cols()) = b[i];
            return out;
        };
        RunControl control;
        const Stored<double> factor(problem.L.transpose(), Layout::row);
        const auto above = side_grams(chain, NarrowEnd::output, {}, control);
        const auto below = side_grams(chain, NarrowEnd::input, factor.read(), control);
        Dense A = Dense::Identity(chain.dim(M), chain.dim(M) + extra), B = problem.L;
        for (Index j = M; j >= 1; --j) {
            const Dense own = A.leftCols(chain.dim(j));
            const Dense want = own * own.transpose();
            CHECK(max_difference(dense(above[static_cast<std::size_t>(j - 1)].view()), want) <=
                  tolerance<double>(max_abs(want)));
            A = plain_product(A, link(j));
        }
        for (Index j = 1; j <= M; ++j) {
            const Dense own = B.topRows(chain.dim(j - 1) + (chain.layer(j).bias ? 1 : 0));
            const Dense want = own.transpose() * own;
            CHECK(max_difference(dense(below[static_cast<std::size_t>(j - 1)].view()), want) <=
                  tolerance<double>(max_abs(want)));
            B = plain_product(link(j), B);
        }
        CHECK_THROWS_AS(side_grams(chain, NarrowEnd::input, factor.read().col_block(0, 1).row_block(0, 0), control),
                        InvalidArgument);
    }
}

TEST_CASE("the reduced kernel rejects arguments that contradict it") {
    const Problem problem(kModels[3]);
    RunControl control;
    const auto bare =
        std::make_shared<ChainHessian<double>>(*problem.chain, NarrowEnd::output, ConstMatrixView<double>(), control);
    CHECK_THROWS_AS(ReducedHessian<double>(bare, Curvature::hessian, control), InvalidArgument);
    const auto full = full_kernel(problem, NarrowEnd::output, 1.0);
    const ReducedHessian<double> reduced(full, Curvature::hessian, control);
    const Index N = reduced.dimension(), P = full->chain().num_parameters();
    const Stored<double> z(Dense::Zero(2, N), Layout::row), D(Dense::Zero(2, P), Layout::row);
    const Stored<double> columns(Dense::Zero(2, N), Layout::col);
    const auto loss = [](MatrixView<double>, Index) {};
    CHECK_THROWS_AS(reduced.product(D.read(), z.view(), loss, control), InvalidArgument);
    CHECK_THROWS_AS(reduced.product(z.read(), z.view().row_block(0, 1), loss, control), InvalidArgument);
    CHECK_THROWS_AS(reduced.product(columns.read(), z.view(), loss, control), InvalidArgument);
    CHECK_THROWS_AS(reduced.lift(z.read(), z.view(), control), InvalidArgument);
    CHECK_THROWS_AS(reduced.lift(z.read(), D.view().row_block(0, 1), control), InvalidArgument);
    CHECK_THROWS_AS(reduced.project(z.read(), z.view(), control), InvalidArgument);
    CHECK_THROWS_AS(reduced.end_to_end_change(D.read(), control), InvalidArgument);
    CHECK_THROWS_AS(reduced.pull_back(D.read(), z.view(), control), InvalidArgument);
    CHECK_THROWS_AS(reduced.num_annihilated(0), InvalidArgument);
    CHECK_THROWS_AS(reduced.num_annihilated(4), InvalidArgument);
    const MatrixView<double> block = full->chain().weight_block(D.view().data, 1);
    double* bias = D.view().data + full->chain().bias_offset(1);
    CHECK_THROWS_AS(reduced.annihilated(1, reduced.num_annihilated(1), block, bias, control), InvalidArgument);
    CHECK_THROWS_AS(reduced.lift_layer(1, z.view().data, block, nullptr, control), InvalidArgument);
    CHECK_THROWS_AS(reduced.lift_layer(2, z.view().data, block, bias, control), InvalidArgument);
    CHECK_NOTHROW(reduced.product(z.read().row_block(0, 0), z.view().row_block(0, 0), loss, control));
}
