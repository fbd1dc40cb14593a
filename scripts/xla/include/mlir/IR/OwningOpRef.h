// Stand-in for the MLIR header of this name: only what the `xla` crate uses.
#ifndef SWITCHYARD_XLA_MLIR_OWNING_OP_REF_H_
#define SWITCHYARD_XLA_MLIR_OWNING_OP_REF_H_

#include <cstddef>
#include <utility>

namespace mlir {

// Owns one operation and erases it in the end. OpT is a one-pointer handle.
template <typename OpT>
class OwningOpRef {
 public:
  OwningOpRef(std::nullptr_t = nullptr) : op_(nullptr) {}
  OwningOpRef(OpT op) : op_(op) {}
  OwningOpRef(OwningOpRef&& o) : op_(o.release()) {}
  OwningOpRef& operator=(OwningOpRef&& o) {
    if (this != &o) {
      reset();
      op_ = o.release();
    }
    return *this;
  }
  ~OwningOpRef() { reset(); }

  OpT get() const { return op_; }
  OpT operator*() const { return op_; }
  OpT* operator->() { return &op_; }
  explicit operator bool() const { return static_cast<bool>(op_); }
  OpT release() { return std::exchange(op_, OpT(nullptr)); }

 private:
  void reset() {
    if (op_) op_.erase();
  }
  OpT op_;
};

}  // namespace mlir

#endif
