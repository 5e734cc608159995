"""The settings of facebookresearch/mvit and of SlowFast: which there are, and what those that count here default to.

Facts of their configuration files (mvit at dfbdfdf, SlowFast at 287ec00), from which :mod:`stvit.config.slowfast`
translates.
"""

from __future__ import annotations

from collections.abc import Mapping

MVIT, SLOWFAST = "facebookresearch/mvit", "SlowFast"


class Absent:
    """Stands where a project has no such setting."""

    def __repr__(self) -> str:
        return "no such setting"


ABSENT = Absent()


def _both(**values: object) -> dict[str, tuple[object, object]]:
    return {key: (value, value) for key, value in values.items()}


def _group(name: str, settings: Mapping[str, tuple[object, object]]) -> dict[str, tuple[object, object]]:
    return {f"{name}.{key}": values for key, values in settings.items()}


# The default of each setting that counts here: (mvit's, SlowFast's); for None see NOTHING.
DEFAULTS: dict[str, tuple[object, object]] = {
    "LOG_PERIOD": (10, 10),
    "NUM_GPUS": (8, 1),
    "NUM_SHARDS": (1, 1),
    "OUTPUT_DIR": ("./tmp", "."),
    "RNG_SEED": (0, 1),
    **_group(
        "AUG",
        {
            "AA_TYPE": ("rand-m9-n6-mstd0.5-inc1", "rand-m9-mstd0.5-inc1"),
            "ENABLE": (ABSENT, False),
            **_both(COLOR_JITTER=0.4, INTERPOLATION="bicubic", NUM_SAMPLE=1, RE_COUNT=1, RE_MODE="pixel", RE_PROB=0.25),
        },
    ),
    **_group("BN", {"NORM_TYPE": (ABSENT, "batchnorm")}),
    **_group(
        "DATA",
        {
            "IN_VAL_CROP_RATIO": (ABSENT, 0.875),
            "VAL_CROP_RATIO": (0.875, ABSENT),
            "MEAN": ([0.485, 0.456, 0.406], [0.45, 0.45, 0.45]),
            "STD": ([0.229, 0.224, 0.225], [0.225, 0.225, 0.225]),
            "DECODING_BACKEND": (ABSENT, "torchvision"),
            "INV_UNIFORM_SAMPLE": (ABSENT, False),
            "NUM_FRAMES": (ABSENT, 8),
            "PATH_LABEL_SEPARATOR": (ABSENT, " "),
            "PATH_PREFIX": (ABSENT, ""),
            "RANDOM_FLIP": (ABSENT, True),
            "REVERSE_INPUT_CHANNEL": (ABSENT, False),
            "SAMPLING_RATE": (ABSENT, 8),
            "TARGET_FPS": (ABSENT, 30.0),
            "TEST_CROP_SIZE": (224, 256),
            "TRAIN_CROP_SIZE": (224, 224),
            "TRAIN_JITTER_ASPECT_RELATIVE": (ABSENT, []),
            "TRAIN_JITTER_FPS": (ABSENT, 0.0),
            "TRAIN_JITTER_SCALES": (ABSENT, [256, 320]),
            "TRAIN_JITTER_SCALES_RELATIVE": (ABSENT, []),
            "USE_OFFSET_SAMPLING": (ABSENT, False),
        },
    ),
    **_group("DATA_LOADER", _both(NUM_WORKERS=8, PIN_MEMORY=True)),
    **_group(
        "MIXUP",
        {
            "ENABLE": (True, False),
            **_both(ALPHA=0.8, CUTMIX_ALPHA=1.0, LABEL_SMOOTH_VALUE=0.1, PROB=1.0, SWITCH_PROB=0.5),
        },
    ),
    **_group(
        "MODEL",
        {
            "ACT_CHECKPOINT": (False, False),
            "ARCH": (ABSENT, "slowfast"),
            "DROPOUT_RATE": (0.0, 0.5),
            "FROZEN_BN": (ABSENT, False),
            "MODEL_NAME": ("MViT", "SlowFast"),
            "NUM_CLASSES": (1000, 400),
        },
    ),
    **_group(
        "MVIT",
        {
            "CLS_EMBED_ON": (False, True),
            "DIM_MUL_IN_ATT": (True, False),
            "DROPOUT_RATE": (ABSENT, 0.0),
            "HEAD_INIT_SCALE": (ABSENT, 1.0),
            "LAYER_SCALE_INIT_VALUE": (ABSENT, 0.0),
            "NORM": (ABSENT, "layernorm"),
            "NORM_STEM": (ABSENT, False),
            "PATCH_2D": (ABSENT, False),
            "PATCH_KERNEL": ([7, 7], [3, 7, 7]),
            "PATCH_PADDING": ([3, 3], [2, 4, 4]),
            "PATCH_STRIDE": ([4, 4], [2, 4, 4]),
            "POOL_KVQ_KERNEL": ([3, 3], None),
            "POOL_KV_STRIDE": (None, []),
            "POOL_KV_STRIDE_ADAPTIVE": (None, None),
            "REL_POS_SPATIAL": (True, False),
            "REL_POS_TEMPORAL": (ABSENT, False),
            "RESIDUAL_POOLING": (True, False),
            "REV.BUFFER_LAYERS": (ABSENT, []),
            "REV.ENABLE": (ABSENT, False),
            "REV.PRE_Q_FUSION": (ABSENT, "avg"),
            "REV.RESPATH_FUSE": (ABSENT, "concat"),
            "REV.RES_PATH": (ABSENT, "conv"),
            "SEPARATE_QKV": (ABSENT, False),
            "SEP_POS_EMBED": (ABSENT, False),
            "USE_ABS_POS": (False, True),
            "USE_FIXED_SINCOS_POS": (ABSENT, False),
            "USE_MEAN_POOLING": (ABSENT, False),
            "ZERO_DECAY_POS_CLS": (False, True),
            **_both(DEPTH=16, DIM_MUL=[], DROPPATH_RATE=0.1, EMBED_DIM=96, HEAD_MUL=[], MLP_RATIO=4.0, MODE="conv"),
            **_both(NUM_HEADS=1, POOL_FIRST=False, POOL_Q_STRIDE=[], QKV_BIAS=True, REL_POS_ZERO_INIT=False),
        },
    ),
    **_group(
        "SOLVER",
        {
            "BASE_LR": (0.00025, 0.1),
            "BETAS": (ABSENT, [0.9, 0.999]),
            "COSINE_AFTER_WARMUP": (True, False),
            "COSINE_END_LR": (1e-6, 0.0),
            "WARMUP_EPOCHS": (70.0, 0.0),
            "WARMUP_START_LR": (1e-8, 0.01),
            "WEIGHT_DECAY": (0.05, 1e-4),
            "ZERO_WD_1D_PARAM": (True, False),
            **_both(BASE_LR_SCALE_NUM_SHARDS=False, CLIP_GRAD_L2NORM=0.0, DAMPENING=0.0, LAYER_DECAY=1.0),
            **_both(LR_POLICY="cosine", MAX_EPOCH=300, MOMENTUM=0.9, NESTEROV=True, OPTIMIZING_METHOD="sgd"),
        },
    ),
    **_group("TENSORBOARD", {"ENABLE": (ABSENT, False)}),
    **_group(
        "TEST",
        {
            "BATCH_SIZE": (64, 8),
            "DATASET": ("imagenet", "kinetics"),
            "ENABLE": (False, True),
            "NUM_ENSEMBLE_VIEWS": (ABSENT, 10),
            "NUM_SPATIAL_CROPS": (ABSENT, 3),
        },
    ),
    **_group(
        "TRAIN",
        {
            "BATCH_SIZE": (256, 64),
            "DATASET": ("imagenet", "kinetics"),
            **_both(AUTO_RESUME=True, CHECKPOINT_PERIOD=10, ENABLE=True, EVAL_PERIOD=10, MIXED_PRECISION=False),
        },
    ),
}

# Where they may write None for nothing, and what nothing is here.
NOTHING: dict[str, object] = {"AUG.AA_TYPE": "", "AUG.COLOR_JITTER": 0.0, "SOLVER.CLIP_GRAD_L2NORM": 0.0}

# Paths, which have the same default everywhere: none.
PATHS = frozenset({"DATA.PATH_TO_DATA_DIR", "TEST.CHECKPOINT_FILE_PATH", "TRAIN.CHECKPOINT_FILE_PATH"})

# What stvit does not do: the values that are no order to do it, and what to say of any other.
REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "AUG.GEN_MASK_LOADER": ((False,), "stvit does not train on masked inputs"),
    "AUG.RE_SPLIT": ((False,), "random erasing treats all images of a batch alike"),
    "DATA.DUMMY_LOAD": ((False,), "every sample is read anew"),
    "DATA.ENSEMBLE_METHOD": (("sum",), "the scores of a video's views are averaged"),
    "DATA.IN22K_TRAINVAL": ((False,), "training and validation images are two folders"),
    "DATA.LOADER_CHUNK_SIZE": ((0,), "an epoch has the whole list"),
    "DATA.MULTI_LABEL": ((False,), "every sample has one label"),
    "DATA.SKIP_ROWS": ((0,), "every line of a list is a video: take the others out"),
    "DATA.SSL_COLOR_JITTER": ((False,), "colours change by AUG.AA_TYPE or AUG.COLOR_JITTER"),
    "DATA.TIME_DIFF_PROB": ((0.0,), "clips are frames, not their differences"),
    "DATA.TRAIN_CROP_NUM_SPATIAL": ((1,), "AUG.NUM_SAMPLE makes several views of a clip"),
    "DATA.TRAIN_CROP_NUM_TEMPORAL": ((1,), "a video gives one clip at a time"),
    "DATA.TRAIN_JITTER_MOTION_SHIFT": ((False,), "a crop stays where it is during its clip"),
    "DETECTION.ENABLE": ((False,), "stvit does not train detectors"),
    "MASK.ENABLE": ((False,), "stvit does not train on masked inputs"),
    "MODEL.DETACH_FINAL_FC": ((False,), "the whole network learns"),
    "MODEL.LOSS_FUNC": (("cross_entropy", "soft_cross_entropy"), "the loss is the cross entropy"),
    "MULTIGRID.LONG_CYCLE": ((False,), "clips keep their size during training"),
    "MULTIGRID.SHORT_CYCLE": ((False,), "clips keep their size during training"),
    "SOLVER.CLIP_GRAD_VAL": ((None,), "gradients are clipped by their norm, SOLVER.CLIP_GRAD_L2NORM"),
    "SOLVER.LARS_ON": ((False,), "there is no LARS"),
    "TASK": (("", "ssl_eval"), "stvit does not train without labels"),
    "TEST.CHECKPOINT_TYPE": (("pytorch",), "checkpoints are PyTorch's"),
    "TRAIN.CHECKPOINT_TYPE": (("pytorch",), "checkpoints are PyTorch's"),
}

# What stvit does in any case; with another value the setting is one of those that mean nothing here.
AS_HERE: dict[str, tuple[object, ...]] = {
    "DATA.INPUT_CHANNEL_NUM": ([3],),
    "MODEL.HEAD_ACT": ("softmax",),
    "MVIT.HEAD_INIT_SCALE": (1.0,),
    "MVIT.REL_POS_ZERO_INIT": (False,),
    "SHARD_ID": (0,),
    "TEST.CHECKPOINT_SQUEEZE_TEMPORAL": (True, False),
    "TRAIN.CHECKPOINT_EPOCH_RESET": (True,),
    "TRAIN.CHECKPOINT_INFLATE": (True, False),
    "TRAIN.CHECKPOINT_IN_INIT": (True, False),
}


def _names(group: str, names: str) -> set[str]:
    return {f"{group}.{name}" for name in names.split()}


# What means nothing here.
IGNORED: frozenset[str] = frozenset(
    {"DIST_BACKEND", "LOG_MODEL_INFO", "VIS_MASK.ENABLE", "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE"}
    | _names("AUG", "MASK_FRAMES MASK_RATIO MASK_TUBE MASK_WINDOW_SIZE MAX_MASK_PATCHES_PER_BLOCK")
    | _names(
        "AVA",
        "ANNOTATION_DIR BGR DETECTION_SCORE_THRESH EXCLUSION_FILE FRAME_DIR FRAME_LIST_DIR FULL_TEST_ON_VAL "
        "GROUNDTRUTH_FILE IMG_PROC_BACKEND LABEL_MAP_FILE TEST_FORCE_FLIP TEST_LISTS TEST_PREDICT_BOX_LISTS "
        "TRAIN_GT_BOX_LISTS TRAIN_LISTS TRAIN_PCA_JITTER_ONLY TRAIN_PREDICT_BOX_LISTS TRAIN_USE_COLOR_AUGMENTATION",
    )
    | _names("BENCHMARK", "LOG_PERIOD NUM_EPOCHS SHUFFLE")
    | _names("BN", "GLOBAL_SYNC NUM_BATCHES_PRECISE NUM_SPLITS NUM_SYNC_DEVICES USE_PRECISE_STATS WEIGHT_DECAY")
    | _names(
        "CONTRASTIVE",
        "BN_MLP BN_SYNC_MLP DELTA_CLIPS_MAX DELTA_CLIPS_MIN DIM INTERP_MEMORY KNN_ON LENGTH LOCAL_SHUFFLE_BN MEM_TYPE "
        "MLP_DIM MOCO_MULTI_VIEW_QUEUE MOMENTUM MOMENTUM_ANNEALING NUM_CLASSES_DOWNSTREAM NUM_MLP_LAYERS "
        "PREDICTOR_DEPTHS QUEUE_LEN SEQUENTIAL SIMCLR_DIST_ON SWAV_QEUE_LEN T TYPE",
    )
    | _names(
        "DATA",
        "COLOR_RND_GRAYSCALE DECODING_SHORT_SIZE IN22k_VAL_IN1K LOADER_CHUNK_OVERALL_SIZE PATH_TO_PRELOAD_IMDB "
        "SSL_BLUR_SIGMA_MAX SSL_BLUR_SIGMA_MIN SSL_COLOR_BRI_CON_SAT SSL_COLOR_HUE SSL_MOCOV2_AUG TRAIN_PCA_EIGVAL "
        "TRAIN_PCA_EIGVEC",
    )
    | _names(
        "DEMO",
        "BUFFER_SIZE CLIP_VIS_SIZE COMMON_CLASS_NAMES COMMON_CLASS_THRES DETECTRON2_CFG DETECTRON2_THRESH "
        "DETECTRON2_WEIGHTS DISPLAY_HEIGHT DISPLAY_WIDTH ENABLE FPS GT_BOXES INPUT_FORMAT INPUT_VIDEO LABEL_FILE_PATH "
        "NUM_CLIPS_SKIP NUM_VIS_INSTANCES OUTPUT_FILE OUTPUT_FPS PREDS_BOXES SLOWMO STARTING_SECOND THREAD_ENABLE "
        "UNCOMMON_CLASS_THRES VIS_MODE WEBCAM",
    )
    | _names("DETECTION", "ALIGNED ROI_XFORM_RESOLUTION SPATIAL_SCALE_FACTOR")
    | _names(
        "MASK",
        "DECODER_DEPTH DECODER_EMBED_DIM DECODER_SEP_POS_EMBED DEC_KV_KERNEL DEC_KV_STRIDE HEAD_TYPE MAE_ON "
        "MAE_RND_MASK NORM_PRED_PIXEL PER_FRAME_MASKING PRED_HOG PRETRAIN_DEPTH SCALE_INIT_BY_DEPTH TIME_STRIDE_LOSS",
    )
    | _names("MODEL", "DROPCONNECT_RATE FC_INIT_STD FP16_ALLREDUCE MULTI_PATHWAY_ARCH SINGLE_PATHWAY_ARCH")
    | _names(
        "MULTIGRID",
        "BN_BASE_SIZE DEFAULT_B DEFAULT_S DEFAULT_T EPOCH_FACTOR EVAL_FREQ LONG_CYCLE_FACTORS LONG_CYCLE_SAMPLING_RATE "
        "SHORT_CYCLE_FACTORS",
    )
    | _names("NONLOCAL", "GROUP INSTANTIATION LOCATION POOL")
    | _names(
        "RESNET",
        "DEPTH INPLACE_RELU NUM_BLOCK_TEMP_KERNEL NUM_GROUPS SPATIAL_DILATIONS SPATIAL_STRIDES STRIDE_1X1 TRANS_FUNC "
        "WIDTH_PER_GROUP ZERO_INIT_FINAL_BN ZERO_INIT_FINAL_CONV",
    )
    | _names("SLOWFAST", "ALPHA BETA_INV FUSION_CONV_CHANNEL_RATIO FUSION_KERNEL_SZ")
    | _names("SOLVER", "GAMMA LRS STEPS STEP_SIZE WARMUP_FACTOR")
    | _names(
        "TENSORBOARD",
        "CATEGORIES_PATH CLASS_NAMES_PATH LOG_DIR PREDICTIONS_PATH CONFUSION_MATRIX.ENABLE CONFUSION_MATRIX.FIGSIZE "
        "CONFUSION_MATRIX.SUBSET_PATH HISTOGRAM.ENABLE HISTOGRAM.FIGSIZE HISTOGRAM.SUBSET_PATH HISTOGRAM.TOPK "
        "MODEL_VIS.ACTIVATIONS MODEL_VIS.COLORMAP MODEL_VIS.ENABLE MODEL_VIS.GRAD_CAM.COLORMAP "
        "MODEL_VIS.GRAD_CAM.ENABLE MODEL_VIS.GRAD_CAM.LAYER_LIST MODEL_VIS.GRAD_CAM.USE_TRUE_LABEL "
        "MODEL_VIS.INPUT_VIDEO MODEL_VIS.LAYER_LIST MODEL_VIS.MODEL_WEIGHTS MODEL_VIS.TOPK_PREDS "
        "WRONG_PRED_VIS.ENABLE WRONG_PRED_VIS.SUBSET_PATH WRONG_PRED_VIS.TAG",
    )
    | _names("TEST", "NUM_TEMPORAL_CLIPS SAVE_RESULTS_PATH")
    | _names("TRAIN", "CHECKPOINT_CLEAR_NAME_PATTERN KILL_LOSS_EXPLOSION_FACTOR")
    | _names("X3D", "BN_LIN5 BOTTLENECK_FACTOR CHANNELWISE_3x3x3 DEPTH_FACTOR DIM_C1 DIM_C5 SCALE_RES2 WIDTH_FACTOR")
)

# In SlowFast's files for Something-Something, though its own configuration refuses it.
LEFTOVER = frozenset({"PREFETCH.NUM_LOADERS"})

KNOWN = frozenset({*DEFAULTS, *PATHS, *REFUSED, *AS_HERE, *IGNORED, *LEFTOVER})

ONLY_MVIT = frozenset({"DATA.VAL_CROP_RATIO", "TEST.CHECKPOINT_SQUEEZE_TEMPORAL"})

# Settings of both projects among those without a default above.
_SHARED = (
    PATHS
    | {"DIST_BACKEND", "LOG_MODEL_INFO", "SHARD_ID", "MODEL.HEAD_ACT", "MODEL.LOSS_FUNC", "AUG.RE_SPLIT"}
    | {"DATA.IN22K_TRAINVAL", "DATA.IN22k_VAL_IN1K", "DATA.PATH_TO_PRELOAD_IMDB", "TRAIN.CHECKPOINT_EPOCH_RESET"}
    | _names("SOLVER", "CLIP_GRAD_VAL LRS STEPS STEP_SIZE WARMUP_FACTOR")
)
ONLY_SLOWFAST = frozenset(
    key for key in KNOWN - ONLY_MVIT - _SHARED if key not in DEFAULTS or DEFAULTS[key][0] is ABSENT
)
