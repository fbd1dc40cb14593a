// The process-wide registry of PJRT plugins (xla/pjrt/pjrt_api.h). The library
// of the tensorflow-cpu wheel declares these functions and does not export
// them. xla::GetCApiClient is defined again so that it asks this registry.
#include <dlfcn.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "xla/pjrt/c/pjrt_c_api.h"
#include "xla/pjrt/c_api_client/pjrt_c_api_client.h"
#include "xla/pjrt/pjrt_api.h"

namespace pjrt {
namespace {

struct Plugin {
  const PJRT_Api* api;
  bool initialized;
};

std::mutex& Lock() {
  static auto* m = new std::mutex;
  return *m;
}
// Call with Lock() held. Keys are lower case.
std::map<std::string, Plugin>& Plugins() {
  static auto* p = new std::map<std::string, Plugin>;
  return *p;
}
absl::StatusOr<Plugin*> Find(absl::string_view device_type) {
  auto it = Plugins().find(absl::AsciiStrToLower(device_type));
  if (it == Plugins().end()) {
    return absl::NotFoundError(
        absl::StrCat("no PJRT plugin is registered for ", device_type));
  }
  return &it->second;
}

// Takes the plugin's error, if any, and gives it back to the plugin.
absl::Status ToStatus(const PJRT_Api* api, PJRT_Error* error) {
  if (error == nullptr) return absl::OkStatus();
  PJRT_Error_Message_Args message{};
  message.struct_size = PJRT_Error_Message_Args_STRUCT_SIZE;
  message.error = error;
  api->PJRT_Error_Message(&message);
  PJRT_Error_GetCode_Args code{};
  code.struct_size = PJRT_Error_GetCode_Args_STRUCT_SIZE;
  code.error = error;
  code.code = PJRT_Error_Code_INTERNAL;
  if (PJRT_Error* e = api->PJRT_Error_GetCode(&code)) {
    PJRT_Error_Destroy_Args d{};
    d.struct_size = PJRT_Error_Destroy_Args_STRUCT_SIZE;
    d.error = e;
    api->PJRT_Error_Destroy(&d);
  }
  absl::Status status(static_cast<absl::StatusCode>(code.code),
                      absl::string_view(message.message, message.message_size));
  PJRT_Error_Destroy_Args destroy{};
  destroy.struct_size = PJRT_Error_Destroy_Args_STRUCT_SIZE;
  destroy.error = error;
  api->PJRT_Error_Destroy(&destroy);
  return status;
}

}  // namespace

absl::StatusOr<const PJRT_Api*> PjrtApi(absl::string_view device_type) {
  std::lock_guard<std::mutex> hold(Lock());
  auto plugin = Find(device_type);
  if (!plugin.ok()) return plugin.status();
  return (*plugin)->api;
}

absl::StatusOr<std::vector<std::string>> GetRegisteredPjrtApis() {
  std::lock_guard<std::mutex> hold(Lock());
  std::vector<std::string> names;
  for (const auto& p : Plugins()) names.push_back(p.first);
  return names;
}

absl::Status SetPjrtApi(absl::string_view device_type, const PJRT_Api* api) {
  if (api == nullptr) return absl::InvalidArgumentError("null PJRT_Api");
  std::lock_guard<std::mutex> hold(Lock());
  if (!Plugins().emplace(absl::AsciiStrToLower(device_type), Plugin{api, false})
           .second) {
    return absl::AlreadyExistsError(
        absl::StrCat("a PJRT plugin is already registered for ", device_type));
  }
  return absl::OkStatus();
}

absl::StatusOr<const PJRT_Api*> LoadPjrtPlugin(absl::string_view device_type,
                                               absl::string_view library_path) {
  // Never unloaded: plugins start threads.
  void* lib = dlopen(std::string(library_path).c_str(),
                     RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (lib == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("cannot load the PJRT plugin: ", dlerror()));
  }
  auto get = reinterpret_cast<const PJRT_Api* (*)()>(dlsym(lib, "GetPjrtApi"));
  if (get == nullptr) {
    return absl::NotFoundError(
        absl::StrCat(library_path, " has no function GetPjrtApi"));
  }
  const PJRT_Api* api = get();
  if (api == nullptr) {
    return absl::InternalError(
        absl::StrCat(library_path, ": GetPjrtApi returned null"));
  }
  if (api->pjrt_api_version.major_version != PJRT_API_MAJOR) {
    return absl::FailedPreconditionError(absl::StrCat(
        library_path, " has PJRT API ", api->pjrt_api_version.major_version,
        ".", api->pjrt_api_version.minor_version, ", this program has ",
        PJRT_API_MAJOR, ".", PJRT_API_MINOR));
  }
  absl::Status set = SetPjrtApi(device_type, api);
  if (!set.ok()) return set;
  return api;
}

absl::StatusOr<bool> IsPjrtPluginInitialized(absl::string_view device_type) {
  std::lock_guard<std::mutex> hold(Lock());
  auto plugin = Find(device_type);
  if (!plugin.ok()) return plugin.status();
  return (*plugin)->initialized;
}

absl::Status InitializePjrtPlugin(absl::string_view device_type) {
  std::lock_guard<std::mutex> hold(Lock());
  auto plugin = Find(device_type);
  if (!plugin.ok()) return plugin.status();
  if ((*plugin)->initialized) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the PJRT plugin for ", device_type, " is already initialized"));
  }
  PJRT_Plugin_Initialize_Args args{};
  args.struct_size = PJRT_Plugin_Initialize_Args_STRUCT_SIZE;
  const PJRT_Api* api = (*plugin)->api;
  absl::Status status = ToStatus(api, api->PJRT_Plugin_Initialize(&args));
  if (status.ok()) (*plugin)->initialized = true;
  return status;
}

}  // namespace pjrt

namespace xla {

absl::StatusOr<std::unique_ptr<PjRtClient>> GetCApiClient(
    absl::string_view device_type,
    const absl::flat_hash_map<std::string, PjRtValueType>& create_options,
    std::shared_ptr<KeyValueStoreInterface> kv_store) {
  auto api = pjrt::PjrtApi(device_type);
  if (!api.ok()) return api.status();
  return WrapClientAroundCApi(*api, create_options, std::move(kv_store));
}

}  // namespace xla
