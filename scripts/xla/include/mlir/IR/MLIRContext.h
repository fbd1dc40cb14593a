// Stand-in for the MLIR header of this name: only what the `xla` crate uses.
#ifndef SWITCHYARD_XLA_MLIR_CONTEXT_H_
#define SWITCHYARD_XLA_MLIR_CONTEXT_H_

namespace mlir {

class DialectRegistry;
class MLIRContextImpl;

// One pointer to the implementation; made and destroyed by the library.
class MLIRContext {
 public:
  enum class Threading { DISABLED, ENABLED };
  explicit MLIRContext(Threading = Threading::ENABLED);
  explicit MLIRContext(const DialectRegistry&, Threading = Threading::ENABLED);
  ~MLIRContext();
  MLIRContext(const MLIRContext&) = delete;
  MLIRContext& operator=(const MLIRContext&) = delete;

 private:
  MLIRContextImpl* impl_;
};

}  // namespace mlir

#endif
