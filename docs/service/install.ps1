<#
.SYNOPSIS
    Installs refocusd on an acquisition PC, renews it, or removes it again.
.DESCRIPTION
    Makes a Python environment of its own, installs refocusd into it, runs `refocusd doctor`, and puts
    two shortcuts on the desktop and into the start menu: the daemon (`refocusd run`) and its page.
    No administrator is needed.  Python 3.11 to 3.13 (64 bit) must be installed, or uv, which brings
    one along.  Run it again to renew refocusd.
.PARAMETER Folder
    Where refocusd goes.
.PARAMETER Source
    What is installed: a checkout of refocusd (by default the one that this script lies in) or a wheel.
.PARAMETER Wheelhouse
    A folder made with docs\service\wheelhouse.py: nothing is fetched from the internet.
.PARAMETER Extras
    For example demo, calibrate, tensorrt.
.PARAMETER AutoStart
    Start the daemon when this user logs on.
.PARAMETER NoShortcuts
    Leave desktop and start menu as they are.
.PARAMETER Uninstall
    Stop the daemon, and remove the environment and the shortcuts.  Data, ledgers and settings stay.
.EXAMPLE
    powershell -ExecutionPolicy Bypass -File docs\service\install.ps1
.EXAMPLE
    powershell -ExecutionPolicy Bypass -File install.ps1 -Wheelhouse E:\wheelhouse -AutoStart
.EXAMPLE
    powershell -ExecutionPolicy Bypass -File docs\service\install.ps1 -Uninstall
#>
[CmdletBinding()]
param(
    [string] $Folder = (Join-Path $env:LOCALAPPDATA 'Programs\refocusd'),
    [string] $Source = '',
    [string] $Wheelhouse = '',
    [string[]] $Extras = @(),
    [switch] $AutoStart,
    [switch] $NoShortcuts,
    [switch] $Uninstall
)

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

$Environment = Join-Path $Folder 'venv'
$Python = Join-Path $Environment 'Scripts\python.exe'
$Refocusd = Join-Path $Environment 'Scripts\refocusd.exe'
$Versions = '3.12', '3.13', '3.11'
$Probe = 'import struct, sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 14) and struct.calcsize(chr(80)) == 8))'

function Invoke-Program([string] $Program, [string[]] $Arguments) {
    & $Program @Arguments
    if ($LASTEXITCODE -ne 0) {
        throw "$Program $Arguments ended with status $LASTEXITCODE; what it said stands above."
    }
}

function Test-Program([string] $Program, [string[]] $Arguments) {
    if (-not (Get-Command $Program -ErrorAction SilentlyContinue)) { return $false }
    # What a program writes to standard error would be an error of this script.
    $ErrorActionPreference = 'Continue'
    & $Program @Arguments 2>&1 | Out-Null
    return $LASTEXITCODE -eq 0
}

function New-Environment {
    if ((Test-Path $Python) -and (Test-Program $Python @('-c', $Probe))) { return }
    if (Test-Path $Environment) { Remove-Item $Environment -Recurse -Force }
    foreach ($version in $Versions) {
        if (Test-Program 'py' @("-$version", '-c', $Probe)) {
            Invoke-Program 'py' @("-$version", '-m', 'venv', $Environment)
            return
        }
    }
    # Not the `python` of the Microsoft Store that only opens the store: that one fails here.
    if (Test-Program 'python' @('-c', $Probe)) {
        Invoke-Program 'python' @('-m', 'venv', $Environment)
        return
    }
    if (Get-Command 'uv' -ErrorAction SilentlyContinue) {
        Invoke-Program 'uv' @('venv', '--seed', '--python', $Versions[0], $Environment)
        return
    }
    throw 'There is no 64-bit Python 3.11, 3.12 or 3.13 here. Install one from python.org (tick "py launcher"), or uv, and run this script again.'
}

function Install-Package {
    $extra = ''
    if ($Extras.Count -gt 0) { $extra = '[' + ($Extras -join ',') + ']' }
    $arguments = @('-m', 'pip', 'install', '--upgrade')
    if ($Wheelhouse) {
        $arguments += @('--no-index', '--find-links', (Resolve-Path $Wheelhouse).Path, "refocusd$extra")
    } else {
        $from = $Source
        if (-not $from) { $from = Join-Path $PSScriptRoot '..\..' }
        $arguments += (Resolve-Path $from).Path + $extra
    }
    Invoke-Program $Python $arguments
}

function Get-ShortcutFolders {
    $Folders = @([Environment]::GetFolderPath('Desktop'), [Environment]::GetFolderPath('Programs'))
    return $Folders | Where-Object { $_ }
}

function New-Shortcut([string] $Path, [string] $Target, [string] $Arguments, [int] $WindowStyle) {
    $shortcut = (New-Object -ComObject WScript.Shell).CreateShortcut($Path)
    $shortcut.TargetPath = $Target
    # A shortcut to a page has neither of these.
    if ($Path.EndsWith('.lnk')) {
        $shortcut.Arguments = $Arguments
        $shortcut.WorkingDirectory = $env:USERPROFILE
        $shortcut.WindowStyle = $WindowStyle
    }
    $shortcut.Save()
}

function Install-Shortcuts {
    foreach ($place in Get-ShortcutFolders) {
        New-Shortcut (Join-Path $place 'refocusd.lnk') $Refocusd 'run' 1
        # Not the page itself: it asks for the token of this user, which this command knows.
        New-Shortcut (Join-Path $place 'refocusd live view.lnk') $Refocusd 'view --open' 7
    }
}

function Install-AutoStart {
    $place = [Environment]::GetFolderPath('Startup')
    # Minimised: closing its window stops the daemon.
    New-Shortcut (Join-Path $place 'refocusd.lnk') $Refocusd 'run' 7
}

function Stop-Daemon {
    if (-not (Test-Path $Refocusd)) { return }
    # Its files cannot be replaced or deleted before it has ended: then nobody answers.
    for ($second = 0; $second -lt 60 -and (Test-Program $Refocusd @('run', '--stop')); $second++) {
        Start-Sleep -Seconds 1
    }
}

function Uninstall-Refocusd {
    Stop-Daemon
    $places = @(Get-ShortcutFolders) + [Environment]::GetFolderPath('Startup')
    foreach ($place in $places) {
        foreach ($name in 'refocusd.lnk', 'refocusd live view.lnk', 'refocusd live view.url') {
            Remove-Item (Join-Path $place $name) -ErrorAction SilentlyContinue
        }
    }
    if (Test-Path $Environment) { Remove-Item $Environment -Recurse -Force }
    # Only if nothing else is in it.
    if ((Test-Path $Folder) -and -not (Get-ChildItem $Folder -Force)) { Remove-Item $Folder }
    Write-Host "refocusd was removed. Data, ledgers and settings ($env:LOCALAPPDATA\refocusd) stay."
}

if ($Uninstall) {
    Uninstall-Refocusd
    return
}
New-Item -ItemType Directory -Force $Folder | Out-Null
Stop-Daemon
New-Environment
Install-Package
if (-not $NoShortcuts) { Install-Shortcuts }
if ($AutoStart) { Install-AutoStart }
& $Refocusd doctor
if ($LASTEXITCODE -ne 0) { Write-Warning 'refocusd is installed; the lines above marked !! say what it lacks.' }
Write-Host "Start the daemon with the shortcut 'refocusd', or with: $Refocusd run"
