process IMPUTOME_IMPUTE {
    tag "$meta.id"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"
    container "${ workflow.containerEngine in ['singularity', 'apptainer'] && !task.ext.singularity_pull_docker_container ?
        'https://depot.galaxyproject.org/singularity/imputome:0.1.0--pyhdfd78af_0':
        'quay.io/biocontainers/imputome:0.1.0--pyhdfd78af_0' }"

    input:
    tuple val(meta), path(matrix)

    output:
    tuple val(meta), path("${prefix}.h5ad"), emit: h5ad
    tuple val(meta), path("${prefix}.json"), emit: record
    tuple val("${task.process}"), val('imputome'), eval("imputome --version | sed 's/^imputome //'"), topic: versions, emit: versions_imputome

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    if ("$matrix" == "${prefix}.h5ad") error "Input and output names are the same, set prefix in module configuration to disambiguate!"
    """
    imputome impute \\
        $matrix \\
        --output ${prefix}.h5ad \\
        --record ${prefix}.json \\
        --threads $task.cpus \\
        $args
    """

    stub:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    if ("$matrix" == "${prefix}.h5ad") error "Input and output names are the same, set prefix in module configuration to disambiguate!"
    """
    echo $args
    touch ${prefix}.h5ad
    touch ${prefix}.json
    """
}
