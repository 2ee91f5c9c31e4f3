// The sharpness of a deep linear network, the largest eigenvalue of the Hessian of ‖Φ − T‖²_F with Φ = W_3 W_2 W_1, and
// the norm ‖Φ‖₂.
#include <csignal>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <utility>

#include "core/reduced_hessian.hpp"
#include "core/symmetric_eigenvalues.hpp"
#ifdef EXAMPLE_LAPACK
#include "core/fortran_lapack.hpp"
#else
#include "core/eigen_lapack.hpp"
#endif

using namespace flatcore;

namespace {

volatile std::sig_atomic_t interrupted = 0;

// Entries of [−5/8, 5/8], in no particular order.
Matrix<double> pattern(Index rows, Index cols, Index shift) {
    Matrix<double> out(rows, cols);
    for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < cols; ++j)
            out.view()(i, j) = static_cast<double>((7 * i + 3 * j * j + i * j + shift) % 11 - 5) / 8.0;
    return out;
}

Layer layer(const Matrix<double>& W) { return {{W.data(), Scalar::f64, W.rows(), W.cols(), W.cols(), 1}}; }

}  // namespace

int main() {
#ifdef EXAMPLE_LAPACK
    install_lapack(fortran_lapack());
#else
    install_lapack(eigen_lapack());
#endif
    // Kernels ask this some twenty times a second; what it throws ends them.
    std::signal(SIGINT, [](int) { interrupted = 1; });
    RunControl control([](double) {
        if (interrupted) throw std::runtime_error("interrupted");
    });

    const Matrix<double> W1 = pattern(20, 12, 1), W2 = pattern(20, 20, 2), W3 = pattern(4, 20, 3);
    const Matrix<double> T = pattern(4, 12, 4);
    const Chain chain({layer(W1), layer(W2), layer(W3)});
    auto full = std::make_shared<ChainHessian<double>>(chain, NarrowEnd::output, ConstMatrixView<double>(), control);
    const Matrix<double> Phi = full->end_to_end();
    Matrix<double> G(4, 12);  // of the loss at Φ
    G.view().eigen() = 2.0 * (Phi.view().eigen() - T.view().eigen());
    full->set_loss_gradient(G.view(), control);

    // All nonzero eigenvalues of the Hessian are those of an N × N matrix; small enough here to be written out.
    const ReducedHessian<double> reduced(full, Curvature::hessian, control);
    const Index N = reduced.dimension();
    Matrix<double> units = Matrix<double>::zeros(N, N), R(N, N);
    units.view().eigen().diagonal().setOnes();
    const auto twice = [](MatrixView<double> rows, Index) { rows.eigen() *= 2.0; };  // the loss's own Hessian
    reduced.product(units.view(), R.view(), twice, control);

    std::printf("sharpness %.17g\n", symmetric_eigenvalues(std::move(R), control).back());
    std::printf("norm %.17g\n", spectral_norm<double>(Phi.view(), control));
    std::printf("parameters %td, coordinates %td\n", chain.num_parameters(), N);
}
