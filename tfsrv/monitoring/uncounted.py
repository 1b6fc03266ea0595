"""Metrics that TensorFlow Serving prints and nobody counts here.

What TensorFlow's library counts within itself, no C API tells; and of what this server does not do
there is nothing to count. TensorFlow Serving prints the type of each of these before, or without,
any value: so it is here. The list is that of TensorFlow Serving 2.20; the names are those of its
page, on which every sign that Prometheus does not know is a colon.
"""

from __future__ import annotations

from typing import Literal

HELP = "A metric of TensorFlow's that this server does not count: it has no values."

# By their beginnings, up to the last colon that they share.
_NAMES: dict[Literal["counter", "gauge", "histogram"], dict[str, str]] = {
    "counter": {
        ":jax:pjrt:": """
            pjrt_executable_execution_time_usecs pjrt_executable_executions
        """,
        ":tensorflow:": """
            compiler:tf2xla:xla_compiler:compilation_status lite:quantization:transforms:stats
            rpc:service:response_cache_hits tpu:op_error_count tpu:variable_distribution_time
            tpu:xla_spmd_cores_per_replica
        """,
        ":tensorflow:core:": """
            aot_bef_mlir_load_count bfc_allocator_delay checkpoint:sharding:callback_duration
            checkpoint:sharding:num_checkpoint_shards_written checkpoint:write:checkpoint_size
            checkpoint:write:training_time_saved eager_client_error_count
            function_graph_optimization_time_usecs graph_build_calls graph_build_time_usecs
            graph_optimization_cache_failure_count graph_optimization_cache_hit_count
            graph_optimization_cache_load_count graph_optimization_cache_miss_count
            graph_optimization_saving_time_usec graph_optimization_usecs graph_unused_outputs
            mlir_function_pass_fallback_count mlir_function_pass_graph_conversion_count
            mlir_graph_optimization_pass_fallback_count mlir_v1_compat_graph_conversion_count
            mlir_v1_compat_graph_conversion_failure_model_name_count persistent_cache_load_count
            saved_model:read:api saved_model:read:count saved_model:write:api
            saved_model:write:count test_counters tf1_features_by_graph_count
            tf2xla:api:v1:tf_dialect_to_executor_dialect_status
            tf2xla:api:v2:dynamism_function_counter tf2xla:api:v2:dynamism_op_counter
            tf2xla:api:v2:phase2_compilation_status
            tf2xla:api:v2:tf_dialect_to_executor_dialect_status
            tf2xla:graph_compilation_failed_op_count
            tf2xla:internal:inference:tpu_partitioned_call
            tf2xla:mlir_second_phase_failed_legalization_op_count
            tf2xla:mlir_second_phase_non_static_op_count
            tf2xla:mlir_second_phase_non_static_op_skip_count tf2xla:tf_quant_op_count
            tf2xla:v1:mlir_failed_xla_legalize_tf_count
            tf2xla:v1:mlir_failed_xla_legalize_tf_pass_count tf_function_compile
            tf_mlir_bridge_first_phase_v2_count tf_top_level_jit_compilation
            xla_compilation_time_usecs xla_compilations xla_launch_counter
        """,
        ":tensorflow:data:": """
            autoshard_rewrite_batch_size:eligible autoshard_rewrite_batch_size:reason autotune
            autotune_stopping_criteria bytes_consumed bytes_fetched bytes_produced bytes_read
            debug dense_feature elements error experiment experiment_live experiment_opt_in
            experiment_opt_out fetch_op file_logger_attempts file_logger_attempts_num_files
            file_logger_errors file_logger_errors_num_files filename fingerprint framework_type
            iterator_busy iterator_lifetime optimization ragged_feature service:client_iterators
            service:compression service:cross_trainer_cache_queries
            service:data_transfer_protocol_error service:data_transfer_protocol_fallback
            service:data_transfer_protocol_used service:data_transfer_protocol_used_by_nature
            service:jobs_created service:snapshot_bytes_committed service:snapshot_ops
            service:workers_created sparse_feature
        """,
        ":tensorflow:serving:": """
            request_log_count
        """,
        ":xla:service:": """
            cpu:compiler_stacktrace_count
        """,
    },
    "gauge": {
        ":coordination_service:agent:": """
            enabled
        """,
        ":pjrt:gpu:": """
            free_gpu_system_memory
        """,
        ":tensorflow:": """
            api:op:using_fake_quantization config:experimental:enable_mlir_bridge_gauge_v1
            config:experimental:enable_mlir_bridge_gauge_v2
        """,
        ":tensorflow:core:": """
            checkpoint:sharding:callback_description eager_context_created
            saved_model:found_fingerprint_on_load saved_model:read:fingerprint
            saved_model:read:path saved_model:read:path_and_singleprint
            saved_model:write:fingerprint saved_model:write:path
            saved_model:write:path_and_singleprint session_created use_auto_outside_compilation
            use_dynamic_padding_gauge worker_session_created
        """,
        ":tensorflow:data:": """
            autoshard model pipeline_processing_time service:cross_trainer_cache_size_bytes
            service:optimal_number_of_workers
        """,
    },
    "histogram": {
        ":tensorflow:": """
            cc:saved_model:load_latency_by_stage
        """,
        ":tensorflow:core:": """
            checkpoint:read:read_durations checkpoint:write:async_write_durations
            checkpoint:write:write_durations graph_pending_queue_length_histogram
        """,
        ":tensorflow:data:": """
            buffered_vs_budget_ratio getelement_duration getnext_duration iterator_gap
            used_vs_budget_ratio
        """,
    },
}

UNCOUNTED: dict[str, Literal["counter", "gauge", "histogram"]] = {
    beginning + name: kind
    for kind, groups in _NAMES.items()
    for beginning, names in groups.items()
    for name in names.split()
}
