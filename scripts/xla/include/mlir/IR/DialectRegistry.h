// Stand-in for the MLIR header of this name: nothing of it is used here.
#ifndef SWITCHYARD_XLA_MLIR_DIALECT_REGISTRY_H_
#define SWITCHYARD_XLA_MLIR_DIALECT_REGISTRY_H_

namespace mlir {
class DialectRegistry;
}

#endif
