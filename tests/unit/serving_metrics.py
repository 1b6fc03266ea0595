"""What TensorFlow Serving 2.20 shows to Prometheus: names, types, labels and bounds.

Recorded from its page after requests through gRPC and by REST, with batching.
"""

from __future__ import annotations

_NAMES = {
    "counter": """
    :jax:pjrt:pjrt_executable_execution_time_usecs :jax:pjrt:pjrt_executable_executions
    :tensorflow:cc:saved_model:load_attempt_count :tensorflow:cc:saved_model:load_latency
    :tensorflow:compiler:tf2xla:xla_compiler:compilation_status
    :tensorflow:core:aot_bef_mlir_load_count :tensorflow:core:bfc_allocator_delay
    :tensorflow:core:checkpoint:sharding:callback_duration
    :tensorflow:core:checkpoint:sharding:num_checkpoint_shards_written
    :tensorflow:core:checkpoint:write:checkpoint_size
    :tensorflow:core:checkpoint:write:training_time_saved :tensorflow:core:direct_session_runs
    :tensorflow:core:eager_client_error_count
    :tensorflow:core:function_graph_optimization_time_usecs :tensorflow:core:graph_build_calls
    :tensorflow:core:graph_build_time_usecs
    :tensorflow:core:graph_optimization_cache_failure_count
    :tensorflow:core:graph_optimization_cache_hit_count
    :tensorflow:core:graph_optimization_cache_load_count
    :tensorflow:core:graph_optimization_cache_miss_count
    :tensorflow:core:graph_optimization_saving_time_usec
    :tensorflow:core:graph_optimization_usecs :tensorflow:core:graph_run_time_usecs
    :tensorflow:core:graph_runs :tensorflow:core:graph_unused_outputs
    :tensorflow:core:mlir_function_pass_fallback_count
    :tensorflow:core:mlir_function_pass_graph_conversion_count
    :tensorflow:core:mlir_graph_optimization_pass_fallback_count
    :tensorflow:core:mlir_v1_compat_graph_conversion_count
    :tensorflow:core:mlir_v1_compat_graph_conversion_failure_model_name_count
    :tensorflow:core:persistent_cache_load_count :tensorflow:core:saved_model:read:api
    :tensorflow:core:saved_model:read:count :tensorflow:core:saved_model:write:api
    :tensorflow:core:saved_model:write:count :tensorflow:core:test_counters
    :tensorflow:core:tf1_features_by_graph_count
    :tensorflow:core:tf2xla:api:v1:tf_dialect_to_executor_dialect_status
    :tensorflow:core:tf2xla:api:v2:dynamism_function_counter
    :tensorflow:core:tf2xla:api:v2:dynamism_op_counter
    :tensorflow:core:tf2xla:api:v2:phase2_compilation_status
    :tensorflow:core:tf2xla:api:v2:tf_dialect_to_executor_dialect_status
    :tensorflow:core:tf2xla:graph_compilation_failed_op_count
    :tensorflow:core:tf2xla:internal:inference:tpu_partitioned_call
    :tensorflow:core:tf2xla:mlir_second_phase_failed_legalization_op_count
    :tensorflow:core:tf2xla:mlir_second_phase_non_static_op_count
    :tensorflow:core:tf2xla:mlir_second_phase_non_static_op_skip_count
    :tensorflow:core:tf2xla:tf_quant_op_count
    :tensorflow:core:tf2xla:v1:mlir_failed_xla_legalize_tf_count
    :tensorflow:core:tf2xla:v1:mlir_failed_xla_legalize_tf_pass_count
    :tensorflow:core:tf_function_compile :tensorflow:core:tf_mlir_bridge_first_phase_v2_count
    :tensorflow:core:tf_top_level_jit_compilation :tensorflow:core:xla_compilation_time_usecs
    :tensorflow:core:xla_compilations :tensorflow:core:xla_launch_counter
    :tensorflow:data:autoshard_rewrite_batch_size:eligible
    :tensorflow:data:autoshard_rewrite_batch_size:reason :tensorflow:data:autotune
    :tensorflow:data:autotune_stopping_criteria :tensorflow:data:bytes_consumed
    :tensorflow:data:bytes_fetched :tensorflow:data:bytes_produced :tensorflow:data:bytes_read
    :tensorflow:data:debug :tensorflow:data:dense_feature :tensorflow:data:elements
    :tensorflow:data:error :tensorflow:data:experiment :tensorflow:data:experiment_live
    :tensorflow:data:experiment_opt_in :tensorflow:data:experiment_opt_out
    :tensorflow:data:fetch_op :tensorflow:data:file_logger_attempts
    :tensorflow:data:file_logger_attempts_num_files :tensorflow:data:file_logger_errors
    :tensorflow:data:file_logger_errors_num_files :tensorflow:data:filename
    :tensorflow:data:fingerprint :tensorflow:data:framework_type :tensorflow:data:iterator_busy
    :tensorflow:data:iterator_lifetime :tensorflow:data:optimization
    :tensorflow:data:ragged_feature :tensorflow:data:service:client_iterators
    :tensorflow:data:service:compression :tensorflow:data:service:cross_trainer_cache_queries
    :tensorflow:data:service:data_transfer_protocol_error
    :tensorflow:data:service:data_transfer_protocol_fallback
    :tensorflow:data:service:data_transfer_protocol_used
    :tensorflow:data:service:data_transfer_protocol_used_by_nature
    :tensorflow:data:service:jobs_created :tensorflow:data:service:snapshot_bytes_committed
    :tensorflow:data:service:snapshot_ops :tensorflow:data:service:workers_created
    :tensorflow:data:sparse_feature :tensorflow:lite:quantization:transforms:stats
    :tensorflow:rpc:service:response_cache_hits
    :tensorflow:serving:batching_session:wrapped_run_count
    :tensorflow:serving:model_warmup_records_read :tensorflow:serving:request_count
    :tensorflow:serving:request_example_count_total :tensorflow:serving:request_log_count
    :tensorflow:tpu:op_error_count :tensorflow:tpu:variable_distribution_time
    :tensorflow:tpu:xla_spmd_cores_per_replica :xla:service:cpu:compiler_stacktrace_count
    """,
    "gauge": """
    :coordination_service:agent:enabled :pjrt:gpu:free_gpu_system_memory
    :tensorflow:api:op:using_fake_quantization
    :tensorflow:config:experimental:enable_mlir_bridge_gauge_v1
    :tensorflow:config:experimental:enable_mlir_bridge_gauge_v2
    :tensorflow:core:checkpoint:sharding:callback_description
    :tensorflow:core:eager_context_created
    :tensorflow:core:saved_model:found_fingerprint_on_load
    :tensorflow:core:saved_model:read:fingerprint :tensorflow:core:saved_model:read:path
    :tensorflow:core:saved_model:read:path_and_singleprint
    :tensorflow:core:saved_model:write:fingerprint :tensorflow:core:saved_model:write:path
    :tensorflow:core:saved_model:write:path_and_singleprint :tensorflow:core:session_created
    :tensorflow:core:use_auto_outside_compilation :tensorflow:core:use_dynamic_padding_gauge
    :tensorflow:core:worker_session_created :tensorflow:data:autoshard :tensorflow:data:model
    :tensorflow:data:pipeline_processing_time
    :tensorflow:data:service:cross_trainer_cache_size_bytes
    :tensorflow:data:service:optimal_number_of_workers :tensorflow:serving:mlmd_map
    """,
    "histogram": """
    :tensorflow:cc:saved_model:load_latency_by_stage
    :tensorflow:core:checkpoint:read:read_durations
    :tensorflow:core:checkpoint:write:async_write_durations
    :tensorflow:core:checkpoint:write:write_durations
    :tensorflow:core:graph_pending_queue_length_histogram
    :tensorflow:core:graph_run_input_tensor_bytes :tensorflow:core:graph_run_output_tensor_bytes
    :tensorflow:core:graph_run_time_usecs_histogram :tensorflow:data:buffered_vs_budget_ratio
    :tensorflow:data:getelement_duration :tensorflow:data:getnext_duration
    :tensorflow:data:iterator_gap :tensorflow:data:used_vs_budget_ratio
    :tensorflow:serving:batching_session:input_batch_size
    :tensorflow:serving:batching_session:padding_size
    :tensorflow:serving:batching_session:processed_batch_size
    :tensorflow:serving:batching_session:queuing_latency
    :tensorflow:serving:model_warmup_latency :tensorflow:serving:request_example_counts
    :tensorflow:serving:request_latency :tensorflow:serving:runtime_latency
    """,
}
TYPES = {name: kind for kind, names in _NAMES.items() for name in names.split()}

# Of those that had values.
LABELS: dict[str, tuple[str, ...]] = {
    ":tensorflow:cc:saved_model:load_attempt_count": ("model_path", "status"),
    ":tensorflow:cc:saved_model:load_latency": ("model_path",),
    ":tensorflow:cc:saved_model:load_latency_by_stage": ("model_path", "stage"),
    ":tensorflow:core:direct_session_runs": (),
    ":tensorflow:core:graph_build_calls": (),
    ":tensorflow:core:graph_build_time_usecs": (),
    ":tensorflow:core:graph_pending_queue_length_histogram": (),
    ":tensorflow:core:graph_run_input_tensor_bytes": (),
    ":tensorflow:core:graph_run_output_tensor_bytes": (),
    ":tensorflow:core:graph_run_time_usecs": (),
    ":tensorflow:core:graph_run_time_usecs_histogram": (),
    ":tensorflow:core:graph_runs": (),
    ":tensorflow:core:graph_unused_outputs": ("name",),
    ":tensorflow:core:saved_model:read:api": ("api_label",),
    ":tensorflow:core:saved_model:read:count": ("write_version",),
    ":tensorflow:core:saved_model:read:path": (),
    ":tensorflow:core:session_created": (),
    ":tensorflow:data:dense_feature": (),
    ":tensorflow:data:ragged_feature": (),
    ":tensorflow:data:sparse_feature": (),
    ":tensorflow:serving:batching_session:input_batch_size": (),
    ":tensorflow:serving:batching_session:padding_size": ("execution_batch_size",),
    ":tensorflow:serving:batching_session:processed_batch_size": (),
    ":tensorflow:serving:batching_session:queuing_latency": ("thread_pool_name",),
    ":tensorflow:serving:batching_session:wrapped_run_count": (),
    ":tensorflow:serving:request_count": ("model_name", "status"),
    ":tensorflow:serving:request_latency": ("model_name", "API", "entrypoint"),
    ":tensorflow:serving:runtime_latency": ("model_name", "API", "runtime"),
}

# As they stand behind le=.
_LATENCY = """
    10 18 32.4 58.32 104.976 188.957 340.122 612.22 1102 1983.59 3570.47 6426.84 11568.3 20823
    37481.3 67466.4 121440 218591 393464 708235 1.27482e+06 2.29468e+06 4.13043e+06 7.43477e+06
    1.33826e+07 2.40887e+07 4.33596e+07 7.80473e+07 1.40485e+08 2.52873e+08 4.55172e+08
    8.19309e+08 1.47476e+09 +Inf
"""
_ROWS = "1 2 4 8 16 32 64 128 256 512 1024 2048 4096 8192 +Inf"
BOUNDS = {
    name: tuple(bounds.split())
    for name, bounds in {
        ":tensorflow:cc:saved_model:load_latency_by_stage": """
    10 18 32.4 58.32 104.976 188.957 340.122 612.22 1102 1983.59 3570.47 6426.84 11568.3 20823
    37481.3 67466.4 121440 218591 393464 708235 1.27482e+06 2.29468e+06 4.13043e+06 7.43477e+06
    1.33826e+07 2.40887e+07 4.33596e+07 7.80473e+07 1.40485e+08 2.52873e+08 4.55172e+08
    8.19309e+08 1.47476e+09 2.65456e+09 4.77821e+09 8.60078e+09 1.54814e+10 +Inf
        """,
        ":tensorflow:core:graph_pending_queue_length_histogram": """
    1 1.5 2.25 3.375 5.0625 7.59375 11.3906 17.0859 25.6289 38.4434 57.665 86.4976 129.746
    194.62 291.929 437.894 656.841 985.261 1477.89 2216.84 3325.26 4987.89 7481.83 11222.7
    16834.1 25251.2 37876.8 56815.1 85222.7 127834 +Inf
        """,
        ":tensorflow:core:graph_run_input_tensor_bytes": """
    1 4 16 64 256 1024 4096 16384 65536 262144 1.04858e+06 4.1943e+06 1.67772e+07 6.71089e+07
    +Inf
        """,
        ":tensorflow:core:graph_run_output_tensor_bytes": """
    1 4 16 64 256 1024 4096 16384 65536 262144 1.04858e+06 4.1943e+06 1.67772e+07 6.71089e+07
    +Inf
        """,
        ":tensorflow:core:graph_run_time_usecs_histogram": """
    1000 2000 4000 8000 16000 32000 64000 128000 256000 512000 1.024e+06 2.048e+06 4.096e+06
    8.192e+06 1.6384e+07 3.2768e+07 6.5536e+07 1.31072e+08 2.62144e+08 5.24288e+08 +Inf
        """,
        ":tensorflow:serving:batching_session:input_batch_size": _ROWS,
        ":tensorflow:serving:batching_session:padding_size": _ROWS,
        ":tensorflow:serving:batching_session:processed_batch_size": _ROWS,
        ":tensorflow:serving:batching_session:queuing_latency": """
    100 120 144 172.8 207.36 248.832 298.598 358.318 429.982 515.978 619.174 743.008 891.61
    1069.93 1283.92 1540.7 1848.84 2218.61 2662.33 3194.8 3833.76 4600.51 5520.61 6624.74
    7949.68 9539.62 11447.5 13737.1 16484.5 19781.4 23737.6 28485.2 34182.2 41018.6 49222.4
    59066.8 70880.2 85056.2 102067 122481 146977 176373 211647 253977 304772 365726 438871
    526646 631975 758370 910044 1.09205e+06 +Inf
        """,
        ":tensorflow:serving:request_latency": _LATENCY,
        ":tensorflow:serving:runtime_latency": _LATENCY,
    }.items()
}
