// Stand-in for the MLIR header of this name: only what the `xla` crate uses.
#ifndef SWITCHYARD_XLA_MLIR_BUILTIN_OPS_H_
#define SWITCHYARD_XLA_MLIR_BUILTIN_OPS_H_

#include "llvm/Support/raw_ostream.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"

namespace mlir {

// Filled in by the library's constructor. The real class of tensorflow-cpu
// 2.21.0 takes 48 bytes and has no destructor; the room is deliberately more.
class OpPrintingFlags {
 public:
  OpPrintingFlags();

 private:
  alignas(16) unsigned char room_[256];
};

// Only ever handled through pointers that the library gave.
class Operation {
 public:
  Operation() = delete;
  Operation(const Operation&) = delete;
  void print(llvm::raw_ostream&, const OpPrintingFlags&);
  void erase();
};

class ModuleOp {
 public:
  explicit ModuleOp(Operation* op = nullptr) : op_(op) {}
  ModuleOp(std::nullptr_t) : op_(nullptr) {}
  explicit operator bool() const { return op_ != nullptr; }
  Operation* getOperation() const { return op_; }
  Operation* operator->() const { return op_; }
  void print(llvm::raw_ostream& os) const { op_->print(os, OpPrintingFlags()); }
  void erase() const { op_->erase(); }

 private:
  Operation* op_;
};
static_assert(sizeof(ModuleOp) == sizeof(void*), "a handle is one pointer");

}  // namespace mlir

#endif
