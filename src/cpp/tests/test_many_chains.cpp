#include <doctest/doctest.h>

#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <limits>
#include <thread>

#include "core/many_chains.hpp"
#include "core/padded_chain.hpp"
#include "core/simd/tables.hpp"
#include "core/small_lanczos.hpp"
#include "core/tridiagonal.hpp"
#include "helpers.hpp"

using namespace flatcore;
using namespace flatcore::testing;

namespace {

template <class T>
const simd::SmallChainKernels<T>& kernels_of(const simd::Table& table) {
    if constexpr (std::is_same_v<T, float>)
        return table.chain32;
    else
        return table.chain64;
}

// A matrix with its rows padded to whole vectors; the padding is zero.
template <class T>
struct Padded {
    Padded(const Dense& values, int lanes)
        : ld((values.cols() + lanes - 1) / lanes * lanes), rows(values.rows()), cols(values.cols()), memory(rows * ld) {
        for (Index i = 0; i < rows; ++i)
            for (Index j = 0; j < cols; ++j) memory.data()[i * ld + j] = static_cast<T>(values(i, j));
    }
    T* data() const { return memory.data(); }
    Dense dense() const {
        Dense out(rows, ld);
        for (Index i = 0; i < rows; ++i)
            for (Index j = 0; j < ld; ++j) out(i, j) = static_cast<double>(data()[i * ld + j]);
        return out;
    }
    Index ld, rows, cols;
    AlignedArray<T> memory;
};

Dense widened(const Dense& A, Index cols) {
    Dense out = Dense::Zero(A.rows(), cols);
    out.leftCols(A.cols()) = A;
    return out;
}

template <class T>
void check_multiply(const simd::SmallChainKernels<T>& kernels, Index m, Index n, Index k, Index k2) {
    CAPTURE(m);
    CAPTURE(n);
    CAPTURE(k);
    const Dense A = random_dense(m, k, 1), B = random_dense(k, n, 2), C = random_dense(k2, m, 3),
                D = random_dense(k2, n, 4);
    const Padded<T> a(A, kernels.lanes), b(B, kernels.lanes), c(C, kernels.lanes), d(D, kernels.lanes);
    const Padded<T> out(filled(m, n, kNaN), kernels.lanes);
    // The second left operand is read transposed.
    const simd::Term<T> terms[2] = {{a.data(), a.ld, 1, b.data(), b.ld, k}, {c.data(), 1, c.ld, d.data(), d.ld, k2}};
    kernels.multiply(m, out.ld, terms, 2, out.data(), out.ld);
    const Dense expected = widened(plain_product(A, B) + plain_product(C.transpose(), D), out.ld);
    CHECK(max_difference(out.dense(), expected) <= 8.0 * eps<T>() * static_cast<double>(k + k2) * 4.0);
    kernels.multiply(m, out.ld, terms, 1, out.data(), out.ld);
    CHECK(max_difference(out.dense(), widened(plain_product(A, B), out.ld)) <=
          8.0 * eps<T>() * static_cast<double>(k) * 4.0);
}

template <class T>
void check_turn(const simd::SmallChainKernels<T>& kernels, Index m, Index n) {
    CAPTURE(m);
    CAPTURE(n);
    const Dense A = random_dense(m, n, 5);
    const Padded<T> a(A, kernels.lanes);
    Padded<T> turned(Dense::Zero(n, m), kernels.lanes);
    for (Index i = 0; i < n * turned.ld; ++i) turned.data()[i] = static_cast<T>(kNaN);
    kernels.turn(m, n, a.data(), a.ld, turned.data(), turned.ld);
    CHECK(max_difference(turned.dense(), widened(A.transpose(), turned.ld)) == 0.0);
}

template <class T>
void check_vectors(const simd::SmallChainKernels<T>& kernels, Index vectors) {
    const Index n = vectors * kernels.lanes;
    CAPTURE(n);
    const Dense X = random_dense(3, n, 6);
    const Padded<T> x(X.row(0), kernels.lanes), y(X.row(1), kernels.lanes), w(X.row(2), kernels.lanes);
    const double tolerance = 64.0 * eps<T>() * static_cast<double>(n);  // sums of at most 1,024 terms a lane
    CHECK(std::abs(kernels.dot(n, x.data(), y.data()) - X.row(0).dot(X.row(1))) <= tolerance);
    const Dense left = X.row(2) - 0.5 * X.row(0) - 0.25 * X.row(1);
    const double norm2 = kernels.recur(n, T(0.5), x.data(), T(0.25), y.data(), w.data());
    CHECK(max_difference(w.dense(), left) <= 8.0 * eps<T>());
    CHECK(std::abs(norm2 - left.squaredNorm()) <= tolerance);
    kernels.recur(n, T(-0.5), x.data(), T(7), nullptr, w.data());
    CHECK(max_difference(w.dense(), left + 0.5 * X.row(0)) <= 16.0 * eps<T>());
    kernels.scale(n, T(2), x.data(), w.data());
    kernels.add(n, T(-1), x.data(), w.data());
    CHECK(max_difference(w.dense(), X.row(0)) <= 8.0 * eps<T>());
}

// Entry i is half i % 2 of the hash of 7 + i / 2, as a signed fraction.
template <class T>
void check_uniform(const simd::SmallChainKernels<T>& kernels, Index n) {
    CAPTURE(n);
    std::vector<T> x(static_cast<std::size_t>(n) + 1, T(5));
    kernels.uniform(n, 7, x.data());
    for (Index i = 0; i < n; ++i) {
        const std::uint64_t bits = mixed(7 + static_cast<std::uint64_t>(i / 2)) >> (i % 2 ? 32 : 0);
        const auto half = static_cast<std::int32_t>(static_cast<std::uint32_t>(bits));
        CHECK(x[static_cast<std::size_t>(i)] == static_cast<T>(static_cast<double>(half) * 0x1p-31));
    }
    CHECK(x.back() == T(5));
}

struct Stack {
    std::vector<Index> dims;
    std::vector<std::vector<double>> memory;
    Dense basis, factor, target;
    ManyChains chains;

    // Layers (batch, d_j, d_{j−1}) of `batch` random chains, or all of ones on the diagonal.
    Stack(std::vector<Index> dims_, Index batch, Index rank, bool identity = false) : dims(std::move(dims_)) {
        for (std::size_t j = 1; j < dims.size(); ++j) {
            const Index rows = dims[j], cols = dims[j - 1];
            std::vector<double> layer;
            for (Index i = 0; i < batch; ++i) {
                const Dense W = identity ? Dense::Identity(rows, cols)
                                         : Dense(random_dense(rows, cols, static_cast<unsigned>(17 * i + j)) / 2.0);
                for (Index p = 0; p < rows; ++p)
                    for (Index q = 0; q < cols; ++q) layer.push_back(W(p, q));
            }
            memory.push_back(std::move(layer));
            chains.layers.push_back({memory.back().data(), Scalar::f64, rows * cols, cols, 1});
        }
        basis = Eigen::HouseholderQR<Dense>(random_dense(dims.front(), dims.front(), 91)).householderQ();
        for (Index j = 0; j < rank; ++j) chains.roots.push_back(1.5 / static_cast<double>(j + 1));
        factor = basis.leftCols(rank) * Eigen::Map<const Eigen::VectorXd>(chains.roots.data(), rank).asDiagonal();
        target = random_dense(dims.back(), rank, 92);
        chains.batch = batch;
        chains.dims = dims;
        chains.basis = {basis.data(), basis.rows(), basis.cols(), 1, basis.rows()};
        chains.target = {target.data(), target.rows(), target.cols(), 1, target.rows()};
        chains.scale = 0.5;
        chains.constant = 2.0;
    }

    Dense weight(Index chain, std::size_t layer) const {
        const Index rows = dims[layer], cols = dims[layer - 1];
        Dense out(rows, cols);
        for (Index p = 0; p < rows; ++p)
            for (Index q = 0; q < cols; ++q)
                out(p, q) = memory[layer - 1][static_cast<std::size_t>((chain * rows + p) * cols + q)];
        return out;
    }

    double loss(const std::vector<Dense>& W) const {
        Dense Phi = W.front();
        for (std::size_t j = 1; j < W.size(); ++j) Phi = plain_product(W[j], Phi);
        return chains.scale * ((plain_product(Phi, factor) - target).squaredNorm() + chains.constant);
    }
    std::vector<Dense> weights(Index chain) const {
        std::vector<Dense> out;
        for (std::size_t j = 1; j < dims.size(); ++j) out.push_back(weight(chain, j));
        return out;
    }
};

template <class T>
void check_inner_product(const std::vector<Index>& dims, Curvature curvature) {
    CAPTURE(dims.size());
    const Stack stack(dims, 1, 3 < dims.front() ? 3 : dims.front());
    const auto& kernels = simd::small_chain<T>();
    const ChainGeometry geometry(stack.chains, kernels.lanes);
    ChainLoader loader(stack.chains, geometry);
    CHECK(loader.load(0));
    PaddedChain<T> rounded(geometry);
    if constexpr (std::is_same_v<T, float>) rounded.round_from(loader.chain());
    const simd::SmallChain<T> chain = [&] {
        if constexpr (std::is_same_v<T, float>)
            return rounded.view(curvature);
        else
            return loader.chain().view(curvature);
    }();
    const AlignedArray<T> D(geometry.length), out(geometry.length);
    for (std::size_t s = 1; s < geometry.width.size(); ++s)
        for (Index i = 0; i < geometry.width[s - 1]; ++i)
            kernels.uniform(geometry.width[s], static_cast<std::uint64_t>(100 * s) + static_cast<std::uint64_t>(50 * i),
                            D.data() + geometry.offset[s] + i * geometry.padded[s]);
    const double inner = kernels.hessian(chain, D.data(), out.data());
    const double direct = kernels.dot(geometry.length, D.data(), out.data());
    const double sizes =
        kernels.dot(geometry.length, D.data(), D.data()) * kernels.dot(geometry.length, out.data(), out.data());
    CHECK(sizes > 0.0);
    CHECK(std::abs(inner - direct) <= 64.0 * eps<T>() * std::sqrt(sizes));
}

// The Hessian by centred second differences, which are exact up to rounding: along two entries L is a polynomial of
// degree at most 2 in each where they lie in different layers, and of degree 2 in both together where in the same.
Dense dense_hessian(const Stack& stack, Index chain) {
    std::vector<Dense> W = stack.weights(chain);
    std::vector<double*> entries;
    for (Dense& layer : W)
        for (Index p = 0; p < layer.rows(); ++p)
            for (Index q = 0; q < layer.cols(); ++q) entries.push_back(&layer(p, q));
    const auto P = static_cast<Index>(entries.size());
    Dense H(P, P);
    const double h = 1.0;
    for (Index a = 0; a < P; ++a) {
        for (Index b = 0; b <= a; ++b) {
            double sum = 0.0;
            double *x = entries[static_cast<std::size_t>(a)], *y = entries[static_cast<std::size_t>(b)];
            const double x0 = *x, y0 = *y;
            for (const double s : {1.0, -1.0}) {
                for (const double t : {1.0, -1.0}) {
                    *x = x0 + s * h;
                    *y = (x == y ? *x : y0) + t * h;
                    sum += s * t * stack.loss(W);
                    *x = x0;
                    *y = y0;
                }
            }
            H(a, b) = H(b, a) = sum / (4.0 * h * h);
        }
    }
    return H;
}

template <class T>
struct Found {
    Found(const Stack& stack, Index k)
        : P(0),
          values(size(stack, k)),
          residuals(size(stack, k)),
          extent(size(stack, 1)),
          width(size(stack, 1)),
          loss(size(stack, 1)),
          gradient(size(stack, 1)),
          norm(size(stack, 1)),
          gap(size(stack, static_cast<Index>(stack.dims.size()) - 2)),
          relative(gap.size()),
          status(size(stack, 1)),
          products(size(stack, 1)),
          steps(size(stack, 1)) {
        for (std::size_t j = 1; j < stack.dims.size(); ++j) P += stack.dims[j] * stack.dims[j - 1];
        vectors.resize(size(stack, k * P));
    }
    static std::size_t size(const Stack& stack, Index each) {
        return static_cast<std::size_t>(stack.chains.batch * each);
    }
    ManyResults<T> view() {
        return {values.data(),   residuals.data(), extent.data(), width.data(),    loss.data(),
                gradient.data(), norm.data(),      gap.data(),    relative.data(), status.data(),
                products.data(), steps.data(),     vectors.data()};
    }
    Index P;
    std::vector<double> values, residuals, extent, width, loss, gradient, norm, gap, relative;
    std::vector<std::int32_t> status;
    std::vector<std::int64_t> products, steps;
    std::vector<T> vectors;
};

template <class T>
void check_against_dense(std::vector<Index> dims, Index rank, Index k) {
    const Stack stack(std::move(dims), 3, rank);
    Found<T> found(stack, k);
    ManyOptions options;
    options.k = k;
    options.tol = std::is_same_v<T, float> ? 1e-5 : 1e-9;
    RunControl control;
    many_sharpness<T>(stack.chains, options, found.view(), control);
    for (Index i = 0; i < stack.chains.batch; ++i) {
        const Dense H = dense_hessian(stack, i);
        const Eigen::SelfAdjointEigenSolver<Dense> solver(H);
        const double size = solver.eigenvalues().cwiseAbs().maxCoeff();
        const auto at = static_cast<std::size_t>(i);
        CHECK(found.status[at] == 0);
        CHECK(std::abs(found.loss[at] - stack.loss(stack.weights(i))) <= 1e-12 * found.loss[at]);
        for (Index n = 0; n < k; ++n) {
            const auto entry = static_cast<std::size_t>(i * k + n);
            const Eigen::Map<const Eigen::Matrix<T, Eigen::Dynamic, 1>> v(found.vectors.data() + (i * k + n) * found.P,
                                                                          found.P);
            const Eigen::VectorXd x = v.template cast<double>();
            CHECK(std::abs(found.values[entry] - solver.eigenvalues()(found.P - 1 - n)) <= 2.0 * options.tol * size);
            // Rounding of the stored vector adds eps; the differences behind H have errors near 1e-10 of its size.
            CHECK((H * x - found.values[entry] * x).norm() <= (2.0 * options.tol + 4.0 * eps<T>() + 1e-9) * size);
        }
    }
}

}  // namespace

TEST_CASE_TEMPLATE("small-chain kernels of every instruction set agree with plain loops", T, float, double) {
    for (const simd::Table* table : simd::supported_tables()) {
        CAPTURE(table->name);
        const auto& kernels = kernels_of<T>(*table);
        for (const Index m : {1, 5, 12, 13, 32})
            for (const Index n : {1, 7, 16, 33, 64}) {
                check_multiply<T>(kernels, m, n, 9, 4);
                check_turn<T>(kernels, m, n);
            }
        check_multiply<T>(kernels, 3, 8, 0, 5);
        for (const Index n : {8 * kernels.lanes - 1, 11 * kernels.lanes + 1, 16 * kernels.lanes})  // eight at a time
            check_multiply<T>(kernels, 1, n, 9, 4);
        for (const Index n : {1, 2, 31, 32, 1000}) check_uniform<T>(kernels, n);
        for (const Index vectors : {1, 3, 4, 9, 1025}) check_vectors<T>(kernels, vectors);
    }
}

TEST_CASE_TEMPLATE("a product's inner product with its argument comes with it", T, float, double) {
    for (const std::vector<Index>& dims : {std::vector<Index>{5, 3}, {3, 4, 2}, {2, 3, 5}, {17, 20, 18, 16}})
        for (const Curvature curvature : {Curvature::hessian, Curvature::gauss_newton})
            check_inner_product<T>(dims, curvature);
}

TEST_CASE("largest_eigenvalue and eigenvector agree with a dense solver, couplings of zero and ties included") {
    for (const Index n : {1, 2, 3, 10, 60}) {
        for (const int kind : {0, 1, 2, 3}) {
            CAPTURE(n);
            CAPTURE(kind);
            Tridiagonal T;
            const Dense noise = random_dense(2, n, static_cast<unsigned>(n + 100 * kind));
            Dense full = Dense::Zero(n, n);
            for (Index i = 0; i < n; ++i) {
                const double zero = kind == 1 ? (i % 3 ? 1.0 : 0.0) : kind == 2 ? 0.0 : 1.0;
                T.a.push_back(kind == 2 ? std::round(noise(0, i)) : kind == 3 ? 0.0 : noise(0, i));
                T.b.push_back(i == 0 ? kNaN : zero * std::abs(noise(1, i)));
                full(i, i) = T.a.back();
                if (i > 0) full(i, i - 1) = full(i - 1, i) = T.b.back();
            }
            const Eigen::SelfAdjointEigenSolver<Dense> solver(full);
            const double size = solver.eigenvalues().cwiseAbs().maxCoeff(), top = solver.eigenvalues()(n - 1);
            const double tolerance = 1e-13 * std::max(size, 1.0);
            for (const double hint : {std::numeric_limits<double>::infinity(), top + 0.1, top - 0.1, -1e9}) {
                const double theta = largest_eigenvalue(T, hint);
                CHECK(std::abs(theta - top) <= tolerance);
            }
            CHECK(std::abs(-largest_eigenvalue(T.negated(), kNaN) - solver.eigenvalues()(0)) <= tolerance);
            const std::vector<double> s = eigenvector(T, largest_eigenvalue(T, top));
            const Eigen::Map<const Eigen::VectorXd> v(s.data(), n);
            CHECK(std::abs(v.norm() - 1.0) <= 1e-14);
            CHECK((full * v - top * v).norm() <= 1e-12 * std::max(size, 1.0));
        }
    }
}

TEST_CASE_TEMPLATE("eigenpairs of small stacks agree with dense Hessians from differences of the loss", T, float,
                   double) {
    check_against_dense<T>({3, 4, 2}, 3, 3);     // narrow output
    check_against_dense<T>({2, 3, 5}, 2, 3);     // narrow input
    check_against_dense<T>({4, 3, 2, 3}, 1, 2);  // rank-deficient data
    check_against_dense<T>({3, 3}, 3, 4);        // depth 1, every eigenvalue threefold
    check_against_dense<T>({1, 1, 1}, 1, 2);     // all eigenvalues
}

TEST_CASE("copies of a tied top eigenvalue are all found") {
    const Stack stack({5, 5, 5}, 4, 5, true);
    Found<double> found(stack, 6);
    ManyOptions options;
    options.k = 6;
    options.tol = 1e-8;
    options.certified_steps = 12;
    options.curvature = Curvature::gauss_newton;  // 2·2·scale·(λ_i(S)) each 5-fold at W = I
    RunControl control;
    many_sharpness<double>(stack.chains, options, found.view(), control);
    const Eigen::SelfAdjointEigenSolver<Dense> S(stack.factor * stack.factor.transpose());
    const double top = 4.0 * stack.chains.scale * S.eigenvalues()(4),
                 second = 4.0 * stack.chains.scale * S.eigenvalues()(3);
    for (std::size_t i = 0; i < 4; ++i) {
        for (std::size_t n = 0; n < 5; ++n) CHECK(std::abs(found.values[6 * i + n] - top) <= 1e-7 * top);
        CHECK(std::abs(found.values[6 * i + 5] - second) <= 1e-7 * top);
    }
}

TEST_CASE("an exception of the callback stops all threads and comes out") {
    struct Stop {};
    const Stack stack({6, 6, 6}, 3000, 6);
    Found<double> found(stack, 2);
    ManyOptions options;
    options.k = 2;
    RunControl control([](double) { throw Stop{}; });
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    CHECK_THROWS_AS(many_sharpness<double>(stack.chains, options, found.view(), control), Stop);
}

TEST_CASE("a chain that overflows is marked and leaves the others alone") {
    Stack stack({3, 3, 3}, 3, 3);
    for (int p = 0; p < 9; ++p) stack.memory[0][static_cast<std::size_t>(9 + p)] = 1e200;
    Found<double> found(stack, 1);
    RunControl control;
    many_sharpness<double>(stack.chains, ManyOptions{}, found.view(), control);
    CHECK(found.status == std::vector<std::int32_t>{0, static_cast<std::int32_t>(ManyStatus::overflow), 0});
    CHECK(std::isnan(found.values[1]));
    CHECK(std::isfinite(found.values[2]));
}
