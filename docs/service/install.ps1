<#
.SYNOPSIS
    Installs refocusd on an acquisition PC, updates it, or removes it again.
.DESCRIPTION
    Finds a 64-bit Python 3.11 to 3.13, or uv, which can fetch one, and runs install.py, beside
    this file, with it and with the same options: -Folder, -Source, -Wheelhouse, -Extras, -AutoStart,
    -NoShortcuts, -Uninstall; -h explains them.  No administrator rights are needed.
.EXAMPLE
    powershell -ExecutionPolicy Bypass -File docs\service\install.ps1
.EXAMPLE
    powershell -ExecutionPolicy Bypass -File E:\wheelhouse\install.ps1 -AutoStart
.EXAMPLE
    powershell -ExecutionPolicy Bypass -File docs\service\install.ps1 -Uninstall
#>
Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$Installer = Join-Path $PSScriptRoot 'install.py'
$Probe = 'import struct, sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 14) and struct.calcsize(chr(80)) == 8))'
# A backslash before the quote that ends "E:\my wheels\" would make the quote a part of the path.
$Given = @($args | ForEach-Object { "$_" -replace '( .*[^\\])\\+$', '$1' })

function Test-Python([string] $Program, [string[]] $First) {
    if (-not (Get-Command $Program -ErrorAction SilentlyContinue)) { return $false }
    # Otherwise output on standard error would end this script.
    $ErrorActionPreference = 'Continue'
    & $Program @First '-c' $Probe 2>&1 | Out-Null
    return $LASTEXITCODE -eq 0
}

foreach ($version in '3.12', '3.13', '3.11') {
    if (Test-Python 'py' @("-$version")) {
        & 'py' "-$version" $Installer @Given
        exit $LASTEXITCODE
    }
}
# Not the `python` of the Microsoft Store that only opens the store: that one fails the test.
if (Test-Python 'python' @()) {
    & 'python' $Installer @Given
    exit $LASTEXITCODE
}
if (Get-Command 'uv' -ErrorAction SilentlyContinue) {
    & 'uv' 'run' '--no-project' '--python' '3.12' $Installer @Given
    exit $LASTEXITCODE
}
throw 'There is no 64-bit Python 3.11, 3.12 or 3.13 here. Install one from python.org (tick "py launcher"), or uv, and run this script again.'
