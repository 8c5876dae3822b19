r"""Restarts of each job and day over a whole archive: a job for Spark.

    spark-submit --packages io.delta:delta-spark_4.2_2.13:4.4.0 \
      spark_job.py s3a://bucket/nomad s3a://bucket/restarts
"""

import sys

from pyspark.sql import SparkSession

import allocframe as af


def main(archive: str, target: str) -> None:
    spark = (
        SparkSession.builder.appName("nomad restarts")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .getOrCreate()
    )
    tables = {name: frame.cache() for name, frame in af.spark.tables(spark, archive).items()}
    restarts = af.stats.restarts(tables, by=["namespace", "job_id"], bin="1D")
    spark.createDataFrame(restarts).write.mode("overwrite").parquet(target)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
