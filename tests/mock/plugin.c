// A PJRT plugin that fails in the way that VARIANT names. Built by tests/plugin.rs.
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xla/pjrt/c/pjrt_c_api.h"

#define OLD_MINOR 1      // an API older than any that is supported
#define OTHER_MAJOR 2    // an API of another generation
#define NO_TABLE 3       // no table at all
#define SHORT_TABLE 4    // a table that ends before the functions of a client
#define NULL_FUNCTION 5  // a table with null for a function
#define INIT_FAILS 6     // an error when the plugin starts
#define NO_DEVICES 7     // an error when devices are opened
#define TINY_TABLE 8     // a table that is smaller than its own header
#define TELLS_OPTIONS 9  // an error that repeats the options of a client

struct PJRT_Error {
  const char* message;
  PJRT_Error_Code code;
};

static int errors_alive = 0;

static PJRT_Error* fail(PJRT_Error_Code code, const char* message) {
  PJRT_Error* error = malloc(sizeof *error);
  error->message = message;
  error->code = code;
  errors_alive++;
  return error;
}

static void destroy(PJRT_Error_Destroy_Args* args) {
  errors_alive--;
  free(args->error);
}

static void message(PJRT_Error_Message_Args* args) {
  args->message = args->error->message;
  args->message_size = strlen(args->message);
}

static PJRT_Error* get_code(PJRT_Error_GetCode_Args* args) {
  args->code = args->error->code;
  return NULL;
}

static PJRT_Error* initialize(PJRT_Plugin_Initialize_Args* args) {
  (void)args;
  return VARIANT == INIT_FAILS ? fail(PJRT_Error_Code_INTERNAL, "another process holds the chips") : NULL;
}

static PJRT_Error* tell_options(const PJRT_NamedValue* options, size_t count) {
  static char text[256];
  size_t used = 0;
  if (count == 0) return fail(PJRT_Error_Code_NOT_FOUND, "no options");
  for (size_t i = 0; i < count && used < sizeof text; i++) {
    const PJRT_NamedValue* option = &options[i];
    const char* space = i == 0 ? "" : " ";
    if (option->type == PJRT_NamedValue_kFloat) {
      used += snprintf(text + used, sizeof text - used, "%s%.*s=%g", space, (int)option->name_size, option->name,
                       option->float_value);
    } else if (option->type == PJRT_NamedValue_kBool) {
      used += snprintf(text + used, sizeof text - used, "%s%.*s=%s", space, (int)option->name_size, option->name,
                       option->bool_value ? "true" : "false");
    }
  }
  return fail(PJRT_Error_Code_NOT_FOUND, text);
}

static PJRT_Error* create(PJRT_Client_Create_Args* args) {
  if (args->struct_size < PJRT_Client_Create_Args_STRUCT_SIZE) {
    return fail(PJRT_Error_Code_INVALID_ARGUMENT, "the struct is too short");
  }
  if (VARIANT == TELLS_OPTIONS) return tell_options(args->create_options, args->num_options);
  // Errors that were not given back would show here.
  return errors_alive == 0 ? fail(PJRT_Error_Code_NOT_FOUND, "no chips are visible")
                           : fail(PJRT_Error_Code_INTERNAL, "an error was leaked");
}

const PJRT_Api* GetPjrtApi(void) {
  static PJRT_Api api;
  api.struct_size = PJRT_Api_STRUCT_SIZE;
  api.pjrt_api_version.struct_size = PJRT_Api_Version_STRUCT_SIZE;
  api.pjrt_api_version.major_version = VARIANT == OTHER_MAJOR ? PJRT_API_MAJOR + 1 : PJRT_API_MAJOR;
  api.pjrt_api_version.minor_version = VARIANT == OLD_MINOR ? 12 : PJRT_API_MINOR;
  api.PJRT_Error_Destroy = destroy;
  api.PJRT_Error_Message = message;
  api.PJRT_Error_GetCode = get_code;
  api.PJRT_Plugin_Initialize = initialize;
  api.PJRT_Client_Create = VARIANT == NULL_FUNCTION ? NULL : create;
  if (VARIANT == SHORT_TABLE) api.struct_size = offsetof(PJRT_Api, PJRT_Client_Create);
  if (VARIANT == TINY_TABLE) api.struct_size = sizeof(size_t);
  return VARIANT == NO_TABLE ? NULL : &api;
}
